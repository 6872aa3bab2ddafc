//! The session's clipboard, kept in step with the host's. All of it lives as long as a connection to the
//! host: without one nothing of the host's is on the session's clipboard, and nothing of the session's
//! is told.

mod others;
mod session;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clipboard_relay::{Here, transfer};
use proto::v1;
use session::Session;
use tokio_stream::Stream;
use tonic::Status;

use crate::parts::Connection;

/// Content on its way.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<v1::ClipboardChunk, Status>> + Send>>;

/// See the module.
#[derive(Debug)]
pub struct Clipboard {
    here: Option<Arc<Here>>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Default for Clipboard {
    fn default() -> Self {
        let here = Here::random().inspect_err(|error| {
            tracing::error!(%error, "no clipboard without random bytes");
        });
        Self { here: here.ok().map(Arc::new), session: Mutex::default() }
    }
}

/// Ends a session with its connection.
struct Ending<'a>(&'a Clipboard, Arc<Session>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut held = self.0.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &self.1)) {
            *held = None;
        }
        drop(held);
        self.1.end();
    }
}

impl Clipboard {
    fn held(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Result<Arc<Session>, Status> {
        self.held().clone().ok_or_else(|| Status::failed_precondition("there is no clipboard"))
    }

    /// Tells the host what can be pasted, and again whenever that changes.
    pub async fn tell(&self, connection: &Connection) {
        let Some(here) = self.here.clone() else { return };
        others::warn();
        let session = Session::new(here, connection.host.clone());
        *self.held() = Some(Arc::clone(&session));
        let ending = Ending(self, session);
        ending.1.run().await;
    }

    /// Tells it once more.
    ///
    /// # Errors
    /// The host does not take it.
    pub async fn resync(&self) -> Result<(), Status> {
        // Without a session there is nothing that could be told.
        if let Ok(session) = self.session() {
            session.tell_again();
        }
        Ok(())
    }

    /// The host has something to paste.
    ///
    /// # Errors
    /// The offer is wrong, or there is no clipboard.
    pub async fn offered(&self, offer: v1::ClipboardOffer) -> Result<(), Status> {
        self.session()?.offered(&offer)
    }

    /// Content for the host.
    ///
    /// # Errors
    /// It is not what this agent has offered last.
    pub async fn fetch(&self, fetch: v1::ClipboardFetch) -> Result<Chunks, Status> {
        let content = self.session()?.content(&fetch).await?;
        Ok(Box::pin(transfer::chunks(content)))
    }
}

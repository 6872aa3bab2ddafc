//! The clipboard of a VM: what its definition lets through, how much of it, and what is written down of it.
//! What its agents say comes in here and is checked; who gets what is decided for all VMs together by the
//! desktop's hub.

mod audit;
mod consent;
mod meter;
mod rules;
mod settings;
mod side;

use super::About;
use super::shares::Shares;
use crate::daemon::agents::Agent;
use crate::daemon::desktop::clipboard::Peer;
use crate::problem::Problem;
use crate::untrusted::Untrusted;
use agent_link::Role;
pub(in crate::daemon) use audit::{Entry, Way};
use clipboard_relay::{Announcement, transfer};
use proto::v1::{ClipboardChunk, ClipboardFetch, ClipboardOffer, ClipboardReply, ClipboardRequest};
pub(in crate::daemon) use rules::Rules;
pub(in crate::daemon) use side::Side;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Content on its way to a guest.
pub(in crate::daemon) type Chunks =
    Pin<Box<dyn Stream<Item = Result<ClipboardChunk, Status>> + Send>>;

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Clipboard {
    side: Arc<Side>,
}

impl Clipboard {
    pub(in crate::daemon) fn new(about: Arc<About>, shares: Arc<Shares>) -> Self {
        Self { side: Arc::new(Side::new(about, shares)) }
    }

    fn peer(&self, role: Role) -> Peer {
        Peer { vm: self.side.vm().to_owned(), role }
    }

    pub(in crate::daemon) fn came(&self, agent: &Agent) {
        self.side.hub().came(&self.side, agent);
    }

    pub(in crate::daemon) fn left(&self, role: Role) {
        self.side.hub().left(&self.peer(role));
    }

    pub(in crate::daemon) fn ended(&self) {
        self.side.hub().ended(self.side.vm());
    }

    pub(in crate::daemon) fn changed(&self) {
        self.side.rules_changed();
        self.side.hub().changed(self.side.vm());
    }

    /// An agent says what can be pasted from its session.
    pub(in crate::daemon) fn offered(
        &self,
        role: Role,
        offer: ClipboardOffer,
    ) -> Result<(), Status> {
        self.side.meter_offer()?;
        let announcement = Untrusted::new(offer).check(|offer| Announcement::check(&offer));
        let announcement = announcement.map_err(|problem| {
            self.side.refused("an offer that breaks a limit", &problem);
            Status::invalid_argument(problem.to_string())
        })?;
        if let Err(reason) = self.side.hub().offered(&self.peer(role), announcement) {
            // All of this happens to an honest guest, too, which need not be told.
            tracing::debug!(vm = self.side.vm(), %reason, "an offer does not count");
        }
        Ok(())
    }

    /// Somebody pastes in the guest what the host has offered.
    pub(in crate::daemon) async fn fetch(
        &self,
        role: Role,
        fetch: ClipboardFetch,
    ) -> Result<Chunks, Status> {
        let permit = self.side.meter_fetch()?;
        let fetch = Untrusted::new(fetch).check(|fetch| transfer::check(&fetch));
        let (selection, id, format) = fetch.inspect_err(|status| {
            self.side.refused("a request that breaks a limit", &status.message());
        })?;
        let pasted = self.side.hub().paste(Some(&self.peer(role)), selection, id, format).await;
        let content = match pasted {
            Ok((content, from)) => self.side.bytes_for_guest(content, from).await,
            Err(error) => Err(error),
        };
        let content = content.map_err(|error| transfer::status(&error))?;
        let (to, chunks) = mpsc::channel(1);
        // A guest that does not read holds no memory for long, and only as much as it may fetch at once.
        tokio::spawn(async move {
            let _permit = permit;
            let giving = async {
                let mut chunks = std::pin::pin!(transfer::chunks(content));
                while let Some(chunk) = chunks.next().await {
                    if to.send(chunk).await.is_err() {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(transfer::WHOLE, giving).await;
        });
        Ok(Box::pin(ReceiverStream::new(chunks)))
    }

    /// Reads or changes the policy.
    pub(in crate::daemon) async fn settings(
        &self,
        request: ClipboardRequest,
    ) -> Result<ClipboardReply, Problem> {
        if settings::change(self.side.about(), &request)? {
            self.changed();
        }
        settings::reply(self.side.about(), self.side.hub().desktop())
    }
}

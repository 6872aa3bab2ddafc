//! Notifications and URLs of the session's programs, shown and opened on the host.
//!
//! While a host is there, the agent waits in line for the name `org.freedesktop.Notifications` on the
//! session's bus ([`service`]): it serves where the session has no notification service of its own, and takes
//! no name away from one. URLs come from `macrohard-guest-agent open-url` over a socket of the user
//! ([`urls`]). Both end with the connection to the host, so that nothing is taken that goes nowhere.

mod picture;
mod service;
mod shown;
mod text;
pub mod urls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::v1;
use proto::v1::notification_event_request::Event;
use service::{EXPIRED_OR_DISMISSED, Service};
use shown::Shown;
use tonic::Status;
use zbus::connection;

use crate::parts::Connection;

/// Pause before the session's bus is tried again.
const BUS_PAUSE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub struct Notifications {
    shown: Arc<Mutex<Shown>>,
    bus: Mutex<Option<zbus::Connection>>,
}

impl Notifications {
    /// Passes on what programs of the session show and open.
    pub async fn tell(&self, connection: &Connection) {
        tokio::join!(self.serve_bus(connection), urls::serve(connection));
    }

    /// Serves on the session's bus, whenever there is one.
    async fn serve_bus(&self, connection: &Connection) {
        let _gone = Gone(self);
        loop {
            match self.once(connection).await {
                Ok(()) => tracing::info!("the session's bus has ended"),
                Err(error) => tracing::debug!(%error, "no session bus"),
            }
            self.forget();
            tokio::time::sleep(BUS_PAUSE).await;
        }
    }

    async fn once(&self, connection: &Connection) -> zbus::Result<()> {
        let service = Service::new(connection.host.clone(), Arc::clone(&self.shown));
        let bus = connection::Builder::session().serve_at(service::PATH, service).build().await?;
        *lock(&self.bus) = Some(bus.clone());
        service::wait_in_line(&bus).await?;
        bus.closed().await;
        Ok(())
    }

    fn forget(&self) {
        lock(&self.bus).take();
        lock(&self.shown).clear();
    }

    /// What became of one on the host.
    ///
    /// # Errors
    /// There is none of this number.
    pub async fn event(&self, event: v1::NotificationEventRequest) -> Result<(), Status> {
        let unknown = || Status::not_found(format!("there is no notification {}", event.id));
        let what =
            event.event.ok_or_else(|| Status::invalid_argument("an event without a kind"))?;
        let (owner, ended) = {
            let mut shown = lock(&self.shown);
            match &what {
                // A notification whose action was chosen is closed by an event of its own.
                Event::Action(_) => (shown.owner(event.id).ok_or_else(unknown)?, false),
                Event::Closed(_) => (shown.remove(event.id).ok_or_else(unknown)?, true),
            }
        };
        let bus = lock(&self.bus).clone().ok_or_else(|| Status::unavailable("no session bus"))?;
        let sent = match what {
            Event::Action(key) => service::action_invoked(&bus, &owner, event.id, &key).await,
            Event::Closed(_) => service::closed(&bus, &owner, event.id, EXPIRED_OR_DISMISSED).await,
        };
        tracing::debug!(event.id, ended, "a notification's event");
        sent.map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// What the host was told of is void when the connection to it ends.
struct Gone<'a>(&'a Notifications);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// What another program said, as one line for the host.
pub(crate) fn one_line(said: &str) -> String {
    text::line(said.trim(), 256)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The host's desktop as the daemon reaches it; one for all VMs.

pub(super) mod ask;
pub(super) mod browser;
pub(super) mod bus;
pub(super) mod clipboard;
pub(super) mod notifications;

use ask::Asking;
use bus::Bus;
use clipboard::Hub;
use notifications::Notifications;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub(super) struct Desktop {
    /// Questions to the person.
    pub(super) asking: Arc<Asking>,
    /// Its clipboard, and how it is kept in step with the guests'.
    pub(super) clipboard: Arc<Hub>,
    /// Notifications.
    pub(super) notifications: Notifications,
    /// Says that some VM's windows are shown for the first time in its run, or in another way.
    pub(super) windows: watch::Sender<()>,
}

impl Default for Desktop {
    fn default() -> Self {
        let bus = Arc::new(Bus::default());
        let asking = Arc::new(Asking::new(Arc::clone(&bus)));
        Self {
            clipboard: Hub::new(Arc::clone(&asking)),
            asking,
            notifications: Notifications::new(bus),
            windows: watch::Sender::new(()),
        }
    }
}

//! The VM behind an item: what is shown of it, and what a click does to it.

use crate::daemon::desktop::notifications::Content;
use crate::daemon::integration::windows::Looks;
use crate::daemon::vms::Vms;
use crate::problem::Problem;
use definition::Store;
use proto::v1::SeamlessRequest;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a guest may take to power off before the person is told that it has not.
const STOP_PATIENCE: Duration = Duration::from_secs(90);

/// What an item shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) looks: Looks,
    /// The definition lets programs of the session change the VM: who shows the tray is one.
    pub(super) controllable: bool,
}

impl View {
    pub(super) fn new(looks: Looks, store: &Store, name: &str) -> Self {
        // A VM without a definition that can be read has no policy, so nothing is allowed.
        let controllable =
            store.load(name).is_ok_and(|definition| definition.integration.bus_control);
        Self { looks, controllable }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    vms: Vms,
    view: Mutex<View>,
    /// Held by the click that switches, so that each finds what the one before has done.
    switching: tokio::sync::Mutex<()>,
    /// Held by the click that waits for the guest to power off.
    stopping: tokio::sync::Mutex<()>,
}

impl Subject {
    pub(super) fn new(vms: &Vms, name: &str, view: View) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            vms: vms.clone(),
            view: Mutex::new(view),
            switching: tokio::sync::Mutex::default(),
            stopping: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn view(&self) -> View {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is to be shown from now on; what was before.
    pub(super) fn change(&self, view: View) -> View {
        std::mem::replace(&mut *self.view.lock().unwrap_or_else(PoisonError::into_inner), view)
    }

    /// Switches between seamless windows and the guest's screen. Returns at once.
    pub(super) fn toggle(self: &Arc<Self>) {
        let own = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = own.switching.lock().await;
            own.report(own.try_toggle().await).await;
        });
    }

    async fn try_toggle(&self) -> Result<(), Problem> {
        self.check_policy()?;
        let vm = self.vms.get(&self.name).await?;
        let request =
            SeamlessRequest { name: self.name.clone(), toggle: true, ..SeamlessRequest::default() };
        vm.integration().windows.settings(&request).await.map(drop)
    }

    /// Presses the VM's power button, and tells the person if the guest does not obey. Returns at once.
    pub(super) fn stop(self: &Arc<Self>) {
        let own = Arc::clone(self);
        tokio::spawn(async move {
            // One click more is none more.
            let Ok(_waiting) = own.stopping.try_lock() else { return };
            own.report(own.try_stop().await).await;
        });
    }

    async fn try_stop(&self) -> Result<(), Problem> {
        self.check_policy()?;
        self.vms.get(&self.name).await?.stop(STOP_PATIENCE).await
    }

    /// As on the VM's object; as it stands now, not as it is shown.
    fn check_policy(&self) -> Result<(), Problem> {
        if View::new(self.view().looks, self.vms.store(), &self.name).controllable {
            return Ok(());
        }
        Err(Problem::failed(format!(
            "the definition of VM \"{}\" says bus-control = false, or cannot be read",
            self.name
        )))
    }

    /// A click that does nothing says why.
    async fn report(&self, done: Result<(), Problem>) {
        let Err(problem) = done else { return };
        tracing::warn!(vm = self.name, %problem, "a click in the tray");
        let content = Content {
            application: "macrohard-hypervisor".to_owned(),
            summary: format!("{}: {}", self.name, problem.message),
            body: problem.advice.unwrap_or_default(),
            ..Content::default()
        };
        let nobody = Arc::new(|_, _| {});
        if let Err(error) = self.vms.desktop().notifications.show(&content, 0, nobody).await {
            tracing::debug!(vm = self.name, %error, "the desktop shows no notifications");
        }
    }
}

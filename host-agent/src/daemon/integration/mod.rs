//! What of one VM reaches the desktop and what of the desktop reaches it: applications, windows, clipboard,
//! shares, notifications. Lives as long as the daemon knows the VM, across its runs; policy comes from the
//! definition each time it is asked for. Everything that comes in here from an agent is a guest's and
//! is checked by the part that takes it.

pub(super) mod applications;
pub(super) mod clipboard;
pub(super) mod notices;
mod settings;
pub(super) mod shares;
pub(super) mod windows;

use super::agents::{Agent, Audience};
use super::desktop::Desktop;
use crate::problem::Problem;
use agent_link::Role;
use applications::Applications;
use clipboard::Clipboard;
use definition::{Places, Store, VmDefinition};
use notices::Notices;
use proto::v1::{IntegrationReply, IntegrationRequest};
use shares::Shares;
use std::sync::Arc;
use windows::Windows;

/// What every part knows of its VM.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// Its name.
    pub(super) vm: String,
    pub(super) places: Places,
    pub(super) store: Store,
    pub(super) desktop: Arc<Desktop>,
}

impl About {
    /// The definition as it stands on disk now; none of a VM whose definition is gone or broken.
    pub(super) fn definition(&self) -> Option<VmDefinition> {
        self.store.load(&self.vm).ok()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Integration {
    pub(super) applications: Applications,
    pub(super) clipboard: Clipboard,
    pub(super) notices: Notices,
    pub(super) shares: Arc<Shares>,
    pub(super) windows: Arc<Windows>,
    about: Arc<About>,
}

impl Integration {
    pub(super) fn new(about: About) -> Self {
        let about = Arc::new(about);
        let shares = Arc::new(Shares::new(Arc::clone(&about)));
        Self {
            applications: Applications::new(Arc::clone(&about)),
            clipboard: Clipboard::new(Arc::clone(&about), Arc::clone(&shares)),
            notices: Notices::new(Arc::clone(&about)),
            shares,
            windows: Windows::new(Arc::clone(&about)),
            about,
        }
    }

    /// Reads or changes the policy that is no single part's; a change counts at once.
    pub(super) fn settings(
        &self,
        request: IntegrationRequest,
    ) -> Result<IntegrationReply, Problem> {
        settings::settings(self, &self.about, &request)
    }

    /// The definition has changed.
    pub(super) fn changed(&self) {
        self.applications.changed();
        self.clipboard.changed();
        self.shares.changed();
        self.windows.changed();
    }

    /// The VM is gone for good.
    pub(super) fn deleted(&self) {
        self.applications.deleted();
        self.shares.deleted();
    }
}

impl Audience for Integration {
    fn came(&self, agent: &Agent) {
        self.applications.came(agent);
        self.clipboard.came(agent);
        self.notices.came(agent);
        self.shares.came(agent);
    }

    fn left(&self, role: Role) {
        self.applications.left(role);
        self.clipboard.left(role);
        self.notices.left(role);
        self.shares.left(role);
    }

    fn started(&self) {
        self.shares.started();
        self.windows.started();
    }

    fn ended(&self) {
        self.clipboard.ended();
        self.notices.ended();
        self.shares.ended();
        self.windows.ended();
    }
}

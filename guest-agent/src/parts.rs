//! What a session has for the host: each part lives as long as the agent and is told of each connection.

use agent_link::{Channel, Role};
use proto::v1::ReadyReply;
use proto::v1::host_client::HostClient;

use crate::applications::Applications;
use crate::clipboard::Clipboard;
use crate::notifications::Notifications;
use crate::shares::{self, Shares};

/// A connection on which the host answers, after `Ready`.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The host.
    pub host: HostClient<Channel>,
    /// What it said of itself.
    pub reply: ReadyReply,
}

/// All parts of one agent.
#[derive(Debug)]
pub struct Parts {
    /// Which agent.
    pub role: Role,
    /// The session's applications.
    pub applications: Applications,
    /// The session's clipboard.
    pub clipboard: Clipboard,
    /// The session's notifications and URLs.
    pub notifications: Notifications,
    /// Folders of the host; the system agent's.
    pub shares: Shares,
}

impl Parts {
    /// For the agent of this role.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            applications: Applications::default(),
            clipboard: Clipboard::default(),
            notifications: Notifications::default(),
            shares: Shares::default(),
        }
    }

    /// Tells the host what changes, until the connection is lost and this is dropped. A part that cannot
    /// work says why in the log and waits.
    pub async fn tell(&self, connection: &Connection) {
        if matches!(self.role, Role::User(_)) {
            tokio::join!(
                self.applications.tell(connection),
                self.clipboard.tell(connection),
                self.notifications.tell(connection),
                shares::link_home(),
            );
        }
        std::future::pending::<()>().await;
    }
}

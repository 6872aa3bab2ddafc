//! Holding the connection to the host: made again whenever it is lost, for as long as the agent runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use agent_link::{
    Address, BoxStream, Channel, Direction, Hello, Proof, Role, TransportError, channel, introduce,
    serve,
};
use proto::v1::guest_server::GuestServer;
use proto::v1::host_client::HostClient;
use proto::v1::{Feature, ReadyReply, ReadyRequest};

use crate::parts::{Connection, Parts};
use crate::service::Service;

/// Pause before the second try; doubled with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause. A daemon that comes back waits no longer for its agents.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Who this agent is and where its host.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where the host listens.
    pub host: Address,
    /// Which agent this is.
    pub role: Role,
    /// What shows it.
    pub proof: Proof,
    /// The user's name; empty for the system agent.
    pub user: String,
}

/// Why a connection ended or did not come about.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("{0}")]
    Transport(#[from] TransportError),
    #[error("the host answered: {}", .0.message())]
    Status(#[from] tonic::Status),
}

/// What this agent can do.
#[must_use]
pub fn features(role: Role) -> Vec<i32> {
    let features: &[Feature] = match role {
        Role::System => &[
            Feature::Exec,
            Feature::Power,
            Feature::Time,
            Feature::Status,
            Feature::Shares,
            Feature::Update,
        ],
        Role::User(_) => &[
            Feature::Exec,
            Feature::Status,
            Feature::Applications,
            Feature::Clipboard,
            Feature::Notifications,
            Feature::OpenUrl,
        ],
    };
    features.iter().map(|feature| i32::from(*feature)).collect()
}

impl Identity {
    async fn connect(&self, direction: Direction) -> io::Result<BoxStream> {
        let mut stream = self.host.connect().await?;
        let hello = Hello { role: self.role, direction, proof: self.proof.clone() };
        introduce(&mut stream, &hello).await?;
        Ok(stream)
    }

    /// Stays connected for ever. Returns only when the host turns the agent away for what it is, which
    /// another try would not change.
    pub async fn hold(&self) -> String {
        let mut pause = FIRST_PAUSE;
        let parts = Arc::new(Parts::new(self.role));
        if self.role == Role::System {
            parts.shares.come_from(&self.host, &self.proof);
        }
        loop {
            let mut connected = false;
            let ended = self.once(&parts, &mut connected).await;
            if connected {
                pause = FIRST_PAUSE;
            }
            match ended {
                Err(LinkError::Stream(error))
                    if error.kind() == io::ErrorKind::PermissionDenied =>
                {
                    return error.to_string();
                }
                // A host without a daemon, or one that starts again: not worth a line each time.
                Err(error) if !connected => tracing::debug!(%error, "no connection to the host"),
                Err(error) => tracing::warn!(%error, "the connection to the host is lost"),
                Ok(()) => tracing::info!("the connection to the host has ended"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection each way, until either ends.
    async fn once(&self, parts: &Arc<Parts>, connected: &mut bool) -> Result<(), LinkError> {
        let serving = self.connect(Direction::Serves).await?;
        let (host, mut gone) = channel(self.connect(Direction::Calls).await?).await?;
        let mut host = HostClient::new(host).max_decoding_message_size(agent_link::MAX_MESSAGE);
        let reply = self.ready(&mut host).await?;
        *connected = true;
        let theirs = reply.protocol;
        let agreed = theirs == proto::PROTOCOL;
        let service = if agreed {
            tracing::info!(host = %self.host, "connected");
            Service::new(Arc::clone(parts))
        } else {
            let own = proto::PROTOCOL;
            tracing::warn!(
                theirs,
                own,
                "the host speaks another protocol: it may update this agent"
            );
            Service::foreign(Arc::clone(parts))
        };
        let service = GuestServer::new(service).max_decoding_message_size(agent_link::MAX_MESSAGE);
        let connection = Connection { host, reply };
        tokio::select! {
            () = parts.tell(&connection), if agreed => Ok(()),
            served = serve(serving, service) => Ok(served?),
            () = gone.wait() => Ok(()),
        }
    }

    async fn ready(&self, host: &mut HostClient<Channel>) -> Result<ReadyReply, LinkError> {
        let reply = host
            .ready(ReadyRequest {
                protocol: proto::PROTOCOL,
                program: env!("CARGO_PKG_VERSION").to_owned(),
                features: features(self.role),
                system: crate::status::system_name(),
                user: self.user.clone(),
            })
            .await?
            .into_inner();
        Ok(reply)
    }
}

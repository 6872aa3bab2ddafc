//! `macrohard.v1.Guest`: hands each call to the part that does it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent_link::Role;
use proto::v1::guest_server::Guest;
use proto::v1::{self, PowerAction};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clipboard::Chunks;
use crate::parts::Parts;
use crate::{clock, exec, power, status, update};

/// See the module.
#[derive(Clone, Debug)]
pub struct Service {
    parts: Arc<Parts>,
    /// The host speaks this protocol.
    agreed: bool,
}

type Answer<T> = Result<Response<T>, Status>;

fn failed(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(error.to_string()),
        io::ErrorKind::PermissionDenied => Status::permission_denied(error.to_string()),
        io::ErrorKind::InvalidInput => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

impl Service {
    /// For the agent that these parts are of.
    #[must_use]
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { parts, agreed: true }
    }

    /// For a host of another protocol, which may ping and update this agent and nothing else.
    #[must_use]
    pub fn foreign(parts: Arc<Parts>) -> Self {
        Self { parts, agreed: false }
    }

    fn agreed(&self) -> Result<(), Status> {
        match self.agreed {
            true => Ok(()),
            false => Err(Status::failed_precondition("this agent speaks another protocol")),
        }
    }

    fn session_only(&self) -> Result<(), Status> {
        self.agreed()?;
        match self.parts.role {
            Role::User(_) => Ok(()),
            Role::System => Err(Status::failed_precondition("only a session's agent does this")),
        }
    }

    fn system_only(&self) -> Result<(), Status> {
        match self.parts.role {
            Role::System => Ok(()),
            Role::User(_) => Err(Status::failed_precondition("only the system agent does this")),
        }
    }
}

#[tonic::async_trait]
impl Guest for Service {
    async fn ping(&self, _: Request<v1::PingRequest>) -> Answer<v1::PingReply> {
        Ok(Response::new(v1::PingReply {}))
    }

    type ExecStream = Pin<Box<ReceiverStream<Result<v1::ExecOutput, Status>>>>;

    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Answer<Self::ExecStream> {
        self.agreed()?;
        let outputs = exec::run(request.into_inner(), self.parts.role).await?;
        Ok(Response::new(Box::pin(outputs)))
    }

    async fn power(&self, request: Request<v1::PowerRequest>) -> Answer<v1::PowerReply> {
        self.agreed()?;
        self.system_only()?;
        let action = request.into_inner().action();
        if action == PowerAction::Unspecified {
            return Err(Status::invalid_argument("no power action given"));
        }
        power::request(action).await.map_err(|error| failed(&error))?;
        Ok(Response::new(v1::PowerReply {}))
    }

    async fn set_time(&self, request: Request<v1::SetTimeRequest>) -> Answer<v1::SetTimeReply> {
        self.agreed()?;
        self.system_only()?;
        let host = Duration::from_nanos(request.into_inner().unix_nanoseconds);
        let moved = clock::set(host).map_err(|error| failed(&error))?;
        Ok(Response::new(v1::SetTimeReply { moved }))
    }

    async fn guest_status(
        &self,
        _: Request<v1::GuestStatusRequest>,
    ) -> Answer<v1::GuestStatusReply> {
        self.agreed()?;
        Ok(Response::new(status::status()))
    }

    async fn resync(&self, _: Request<v1::ResyncRequest>) -> Answer<v1::ResyncReply> {
        self.agreed()?;
        self.parts.applications.resync().await?;
        self.parts.clipboard.resync().await?;
        Ok(Response::new(v1::ResyncReply {}))
    }

    async fn icon(&self, request: Request<v1::IconRequest>) -> Answer<v1::IconReply> {
        self.session_only()?;
        Ok(Response::new(self.parts.applications.icon(request.into_inner()).await?))
    }

    async fn launch(&self, request: Request<v1::LaunchRequest>) -> Answer<v1::LaunchReply> {
        self.session_only()?;
        Ok(Response::new(self.parts.applications.launch(request.into_inner()).await?))
    }

    async fn offer_clipboard(
        &self,
        request: Request<v1::ClipboardOffer>,
    ) -> Answer<v1::ClipboardOfferReply> {
        self.session_only()?;
        self.parts.clipboard.offered(request.into_inner()).await?;
        Ok(Response::new(v1::ClipboardOfferReply {}))
    }

    type FetchClipboardStream = Chunks;

    async fn fetch_clipboard(&self, request: Request<v1::ClipboardFetch>) -> Answer<Chunks> {
        self.session_only()?;
        Ok(Response::new(self.parts.clipboard.fetch(request.into_inner()).await?))
    }

    async fn set_shares(
        &self,
        request: Request<v1::SetSharesRequest>,
    ) -> Answer<v1::SetSharesReply> {
        self.agreed()?;
        self.system_only()?;
        let problems = self.parts.shares.set(request.into_inner()).await?;
        Ok(Response::new(v1::SetSharesReply { problems }))
    }

    async fn notification_event(
        &self,
        request: Request<v1::NotificationEventRequest>,
    ) -> Answer<v1::NotificationEventReply> {
        self.session_only()?;
        self.parts.notifications.event(request.into_inner()).await?;
        Ok(Response::new(v1::NotificationEventReply {}))
    }

    async fn update(
        &self,
        request: Request<Streaming<v1::UpdateChunk>>,
    ) -> Answer<v1::UpdateReply> {
        self.system_only()?;
        update::update(request.into_inner()).await?;
        Ok(Response::new(v1::UpdateReply {}))
    }
}

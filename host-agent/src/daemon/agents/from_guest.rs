//! `macrohard.v1.Host`: what an agent says, checked.

use super::languages::languages;
use super::{Desk, Facts, unix_nanoseconds};
use crate::daemon::integration::Integration;
use crate::daemon::integration::clipboard::Chunks;
use crate::untrusted::{TextProblem, Untrusted};
use agent_link::Role;
use proto::v1::host_server::Host;
use proto::v1::{self, Feature, ReadyReply, ReadyRequest};
use std::sync::{Arc, Weak};
use tonic::{Request, Response, Status};

/// Limits of [`ReadyRequest`], as the protocol says.
const LONGEST_PROGRAM: usize = 64;
const LONGEST_SYSTEM: usize = 128;
const LONGEST_USER: usize = 32;
/// Features one may list; more than there are.
const MOST_FEATURES: usize = 64;

/// Of one connection.
#[derive(Debug)]
pub(super) struct FromGuest {
    desk: Weak<Desk>,
    role: Role,
    number: u64,
}

impl FromGuest {
    pub(super) fn new(desk: Weak<Desk>, role: Role, number: u64) -> Self {
        Self { desk, role, number }
    }

    fn desk(&self) -> Result<Arc<Desk>, Status> {
        self.desk.upgrade().ok_or_else(|| Status::unavailable("the VM has ended"))
    }

    /// For what only a session has, and tells after it has said what it is: what is heard of one that never does
    /// would stay when it goes.
    fn session(&self) -> Result<Arc<Integration>, Status> {
        if self.role == Role::System {
            return Err(Status::failed_precondition("only a session's agent tells this"));
        }
        let desk = self.desk()?;
        if !desk.is_ready(self.role, self.number) {
            desk.warn(&format!("{} calls before it has said that it is ready: refused", self.role));
            return Err(Status::failed_precondition("this connection has not said what it is"));
        }
        Ok(Arc::clone(&desk.integration))
    }
}

/// Why an introduction is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NotReady {
    #[error(transparent)]
    Text(#[from] TextProblem),
    #[error("it lists {0} features; allowed: {MOST_FEATURES}")]
    Features(usize),
    #[error("the agent of {0} says that its user is {1:?}")]
    User(Role, String),
}

fn facts(request: ReadyRequest, role: Role) -> Result<Facts, NotReady> {
    if request.features.len() > MOST_FEATURES {
        return Err(NotReady::Features(request.features.len()));
    }
    // One of another protocol may be updated and nothing else.
    let foreign = request.protocol != proto::PROTOCOL;
    // Those this program does not know are a later agent's.
    let usable = |feature: &Feature| match foreign {
        true => *feature == Feature::Update,
        false => *feature != Feature::Unspecified,
    };
    let features = request.features().filter(usable).collect();
    let user = Untrusted::new(request.user).line("the user", LONGEST_USER)?;
    if (role == Role::System) != user.is_empty() {
        return Err(NotReady::User(role, user));
    }
    Ok(Facts {
        program: Untrusted::new(request.program).line("the program", LONGEST_PROGRAM)?,
        system: Untrusted::new(request.system).line("the system", LONGEST_SYSTEM)?,
        user,
        features,
        foreign,
    })
}

#[tonic::async_trait]
impl Host for FromGuest {
    async fn ready(&self, request: Request<ReadyRequest>) -> Result<Response<ReadyReply>, Status> {
        let request = request.into_inner();
        let desk = self.desk()?;
        let reply = ReadyReply {
            protocol: proto::PROTOCOL,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            unix_nanoseconds: unix_nanoseconds(),
            languages: languages(),
        };
        let facts = facts(request, self.role).map_err(|problem| {
            desk.warn(&format!("the agent of {} is not taken: {problem}", self.role));
            Status::invalid_argument(problem.to_string())
        })?;
        if facts.program != env!("CARGO_PKG_VERSION") {
            desk.warn(&format!(
                "the agent of {} is version {:?}: `agent update` installs this one's",
                self.role, facts.program
            ));
        }
        if !desk.ready(self.role, self.number, facts) {
            return Err(Status::failed_precondition("this connection has said so before"));
        }
        Ok(Response::new(reply))
    }

    async fn set_applications(
        &self,
        request: Request<v1::ApplicationList>,
    ) -> Result<Response<v1::SetApplicationsReply>, Status> {
        self.session()?.applications.set(self.role, request.into_inner())?;
        Ok(Response::new(v1::SetApplicationsReply {}))
    }

    async fn offer_clipboard(
        &self,
        request: Request<v1::ClipboardOffer>,
    ) -> Result<Response<v1::ClipboardOfferReply>, Status> {
        self.session()?.clipboard.offered(self.role, request.into_inner())?;
        Ok(Response::new(v1::ClipboardOfferReply {}))
    }

    type FetchClipboardStream = Chunks;

    async fn fetch_clipboard(
        &self,
        request: Request<v1::ClipboardFetch>,
    ) -> Result<Response<Chunks>, Status> {
        let integration = self.session()?;
        Ok(Response::new(integration.clipboard.fetch(self.role, request.into_inner()).await?))
    }

    async fn notify(
        &self,
        request: Request<v1::Notification>,
    ) -> Result<Response<v1::NotifyReply>, Status> {
        self.session()?.notices.notify(self.role, request.into_inner()).await?;
        Ok(Response::new(v1::NotifyReply {}))
    }

    async fn close_notification(
        &self,
        request: Request<v1::CloseNotificationRequest>,
    ) -> Result<Response<v1::CloseNotificationReply>, Status> {
        self.session()?.notices.close(self.role, request.into_inner().id).await?;
        Ok(Response::new(v1::CloseNotificationReply {}))
    }

    async fn open_url(
        &self,
        request: Request<v1::OpenUrlRequest>,
    ) -> Result<Response<v1::OpenUrlReply>, Status> {
        self.session()?.notices.open_url(self.role, request.into_inner()).await?;
        Ok(Response::new(v1::OpenUrlReply {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ReadyRequest {
        let protocol = proto::PROTOCOL;
        ReadyRequest { protocol, user: "ann".into(), ..ReadyRequest::default() }
    }

    #[test]
    fn an_introduction_is_taken_or_refused_with_the_reason() {
        let role = Role::User(1000);
        let features = vec![i32::from(Feature::Exec), 0, 99_999];
        let taken = facts(ReadyRequest { features, ..request() }, role).unwrap();
        assert_eq!((taken.features, taken.user.as_str()), (vec![Feature::Exec], "ann"));
        for (request, reason) in [
            (ReadyRequest { program: "x".repeat(65), ..request() }, "the program has 65 bytes"),
            (ReadyRequest { system: "a\u{1b}]0;x".into(), ..request() }, "the system contains"),
            (ReadyRequest { user: "x".repeat(33), ..request() }, "the user has 33"),
            (ReadyRequest { user: String::new(), ..request() }, "says that its user is"),
            (ReadyRequest { features: vec![1; 65], ..request() }, "65 features"),
        ] {
            let refusal = facts(request, role).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert!(facts(request(), Role::System).is_err());
    }

    #[test]
    fn an_agent_of_another_protocol_can_be_updated_and_nothing_else() {
        let features = vec![Feature::Exec.into(), Feature::Update.into(), Feature::Power.into()];
        let protocol = proto::PROTOCOL + 1;
        let taken = facts(ReadyRequest { protocol, features, ..request() }, Role::User(1)).unwrap();
        assert_eq!((taken.features, taken.foreign), (vec![Feature::Update], true));
    }
}

//! How a real agent finds its host, proves itself, and comes back.

mod support;

use agent_link::{Role, Token};
use proto::v1::{Feature, GuestStatusRequest, PingRequest, PowerAction, PowerRequest};
use support::{Desk, PATIENCE};
use tokio::io::AsyncReadExt;
use tonic::Code;

#[tokio::test]
async fn both_agents_connect_and_say_what_they_can() {
    let desk = Desk::new();
    let _system = desk.agent("system");
    let mut system = desk.connected(Role::System).await;
    assert_eq!((system.ready.protocol, system.ready.user.as_str()), (proto::PROTOCOL, ""));
    assert!(system.ready.features().any(|feature| feature == Feature::Power));
    system.guest.ping(PingRequest {}).await.unwrap();
    let status = system.guest.guest_status(GuestStatusRequest {}).await.unwrap().into_inner();
    assert!(status.memory_total > 0);
    let nothing = PowerRequest { action: PowerAction::Unspecified.into() };
    assert_eq!(system.guest.power(nothing).await.unwrap_err().code(), Code::InvalidArgument);

    let _session = desk.agent("session");
    let user = guest_agent::user::User::own().unwrap();
    let mut session = desk.connected(Role::User(user.number)).await;
    assert_eq!(session.ready.user, user.name);
    let off = PowerRequest { action: PowerAction::Off.into() };
    assert_eq!(session.guest.power(off).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_agent_comes_back_when_its_host_does_and_is_missed_when_it_is_killed() {
    let desk = Desk::new();
    let mut agent = desk.agent("system");
    let first = desk.connected(Role::System).await;
    // The host hangs up.
    first.serving.abort();
    drop(first);
    let mut second = desk.connected(Role::System).await;
    second.guest.ping(PingRequest {}).await.unwrap();
    agent.kill().await.unwrap();
    tokio::time::timeout(PATIENCE, second.gone.wait()).await.expect("the end is not noticed");
    assert!(second.guest.ping(PingRequest {}).await.is_err());
}

#[tokio::test]
async fn an_agent_with_another_boots_token_is_turned_away_and_says_so() {
    let desk = Desk::new();
    std::fs::write(desk.path("token"), Token::random().unwrap().to_string()).unwrap();
    let mut agent = desk.agent("system");
    let coming = desk.listener_refuses();
    let (ended, ()) = tokio::join!(agent.wait(), coming);
    assert_eq!(ended.unwrap().code(), Some(1));
    let mut said = String::new();
    agent.stderr.unwrap().read_to_string(&mut said).await.unwrap();
    assert!(
        said.contains("the host turns this agent away: the proof is not that of system"),
        "{said}"
    );
}

#[tokio::test]
async fn an_agent_without_a_token_says_where_it_looked() {
    let desk = Desk::new();
    for (content, reason) in [(None, "no token in"), (Some("short"), "64 hexadecimal digits")] {
        let path = desk.path("token");
        std::fs::remove_file(&path).unwrap_or_default();
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let ended = desk.agent("system").wait_with_output().await.unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains(reason) && said.contains(path.to_str().unwrap()), "{said}");
        assert_eq!(ended.status.code(), Some(1));
    }
}

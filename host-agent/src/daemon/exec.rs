//! Programs in a guest: carries a client's call to the guest's agent and the answers back.

use super::agents::{Agent, problem};
use super::vms::Vms;
use crate::problem::Problem;
use agent_link::Role;
use proto::EXEC_CHUNK as CHUNK;
use proto::v1::exec_input::Input;
use proto::v1::exec_output::Output;
use proto::v1::exec_request::Request;
use proto::v1::{ExecInput, ExecOutput, ExecRequest, ExecTarget, Feature};
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// Longest wait for an agent, in seconds.
const LONGEST_PATIENCE: u32 = 3600;

/// Numbers of users who are people, not services (login.defs(5), UID_MIN and UID_MAX as Debian has them).
pub(super) const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=60_000;

/// Which agent runs a program, and the name it is told to run it as.
struct Choice {
    agent: Agent,
    user: String,
}

/// As `user` where that is asked for, else as the user in session, else as root. A session's agent has
/// proven its user's number and no name: whoever is asked for by name, the system's agent becomes.
fn choose(agents: &[Agent], user: &str) -> Option<Choice> {
    let able = |wanted: fn(Role) -> bool| {
        agents.iter().find(|agent| wanted(agent.role) && agent.can(Feature::Exec)).cloned()
    };
    let session = || able(|role| matches!(role, Role::User(number) if PEOPLE.contains(&number)));
    match user.is_empty().then(session).flatten() {
        Some(agent) => Some(Choice { agent, user: String::new() }),
        None => {
            let agent = able(|role| role == Role::System)?;
            Some(Choice { agent, user: user.to_owned() })
        }
    }
}

/// How long a client wants to wait for an agent.
///
/// # Errors
/// Longer than is allowed.
pub(super) fn patience(seconds: u32) -> Result<Duration, Problem> {
    if seconds > LONGEST_PATIENCE {
        return Err(Problem::usage(format!(
            "the wait for the agent is {seconds} seconds; allowed: 0 to {LONGEST_PATIENCE}"
        )));
    }
    Ok(Duration::from_secs(seconds.into()))
}

/// The first two requests, and the call that follows from them.
///
/// # Errors
/// No such VM or agent, or the guest refuses.
pub(super) async fn exec(
    vms: &Vms,
    mut requests: Streaming<ExecRequest>,
) -> Result<impl Stream<Item = Result<ExecOutput, Status>> + Send + use<>, Status> {
    let mut next = async || -> Result<_, Status> {
        Ok(requests.message().await?.and_then(|request| request.request))
    };
    let Some(Request::Target(wanted)) = next().await? else {
        return Err(Problem::usage("the first request is not `target`").into());
    };
    let Some(Request::Input(ExecInput { input: Some(Input::Start(mut start)) })) = next().await?
    else {
        return Err(Problem::usage("the second request is not `input.start`").into());
    };
    let ExecTarget { name, user, patience: seconds } = wanted;
    let choice =
        vms.wait_for_agent(&name, patience(seconds)?, |agents| choose(agents, &user)).await?;
    start.user = choice.user;
    let first = ExecInput { input: Some(Input::Start(start)) };
    // A client that breaks its word says nothing more; it hears of it when its program ends.
    let inputs = requests.map_while(|request| match request {
        Ok(ExecRequest { request: Some(Request::Input(input)) }) => Some(input),
        _ => None,
    });
    let inputs = tokio_stream::once(first).chain(inputs);
    let outputs = choice.agent.client().exec(inputs).await.map_err(problem)?.into_inner();
    Ok(outputs.map(|output| checked(output.map_err(problem)?)))
}

/// An output within its limits. What a program writes is the client's to show or keep.
fn checked(output: ExecOutput) -> Result<ExecOutput, Status> {
    match &output.output {
        Some(Output::Stdout(bytes) | Output::Stderr(bytes)) if bytes.len() > CHUNK => {
            let found = bytes.len();
            Err(Problem::failed(format!("the guest sent {found} bytes at once; allowed: {CHUNK}")))?
        }
        Some(_) => Ok(output),
        None => Err(Problem::failed("the guest sent an output that says nothing"))?,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::agents::Facts;

    fn agent(role: Role, user: &str) -> Agent {
        let features = vec![Feature::Exec];
        Agent::to_nowhere(role, Facts { user: user.to_owned(), features, ..Facts::default() })
    }

    #[tokio::test]
    async fn no_agent_runs_what_is_meant_for_another() {
        let system = agent(Role::System, "");
        let service = agent(Role::User(33), "ann");
        let ann = agent(Role::User(1000), "ann");
        let liar = agent(Role::User(1001), "root");
        let all = [system.clone(), service.clone(), ann, liar.clone()];
        let chosen = |agents: &[Agent], user: &str| {
            choose(agents, user).map(|choice| (choice.agent.role, choice.user))
        };
        assert_eq!(chosen(&all, ""), Some((Role::User(1000), String::new())));
        assert_eq!(chosen(&all, "ann"), Some((Role::System, "ann".to_owned())));
        assert_eq!(chosen(&all, "root"), Some((Role::System, "root".to_owned())));
        assert_eq!(chosen(&[system, service], ""), Some((Role::System, String::new())));
        assert_eq!(chosen(&[liar], "root"), None);
    }
}

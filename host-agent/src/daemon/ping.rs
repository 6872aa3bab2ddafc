//! How far away a guest's agent is.

use super::agents::{Agent, problem};
use super::exec::patience;
use super::vms::Vms;
use crate::problem::Problem;
use agent_link::Role;
use proto::v1::{PingAgentReply, PingAgentRequest, PingRequest};
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Most calls of one request.
const MOST_CALLS: u32 = 10_000;
/// How long a call may take at least until it is given up; twice that at most.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// Calls the system's agent, or another where there is none.
///
/// # Errors
/// There is no agent, or it does not answer.
pub(super) async fn ping(vms: &Vms, request: PingAgentRequest) -> Result<PingAgentReply, Problem> {
    let PingAgentRequest { name, count, patience: seconds } = request;
    if !(1..=MOST_CALLS).contains(&count) {
        return Err(Problem::usage(format!("the count is {count}; allowed: 1 to {MOST_CALLS}")));
    }
    let agent = vms
        .wait_for_agent(&name, patience(seconds)?, |agents| {
            let system = agents.iter().find(|agent| agent.role == Role::System);
            system.or(agents.first()).cloned()
        })
        .await?;
    // Dropped with the client's request, which ends the calls.
    let mut calls = JoinSet::new();
    calls.spawn_on(times(agent, count), vms.guests());
    let nanoseconds = calls.join_next().await.map_or_else(
        || Err(Problem::failed("no call was made")),
        |times| times.unwrap_or_else(|error| Err(Problem::failed(error))),
    )?;
    Ok(PingAgentReply { nanoseconds })
}

/// Nanoseconds that each of `count` calls takes.
async fn times(agent: Agent, count: u32) -> Result<Vec<u64>, Problem> {
    let mut client = agent.client();
    let mut times = Vec::new();
    // One clock for all: a timer of its own for each call wakes the thread once more.
    let mut patience = tokio::time::interval(CALL_PATIENCE);
    let mut before = None;
    for _ in 0..count {
        let start = Instant::now();
        let mut answer = pin!(client.ping(PingRequest {}));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    answer.map_err(problem)?;
                    break;
                }
                _ = patience.tick() => {}
            }
            if before.replace(times.len()) == Some(times.len()) {
                return Err(Problem::failed("the guest's agent does not answer"));
            }
        }
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

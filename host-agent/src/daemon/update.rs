//! Giving a guest this program's version of the agent: the package that lies beside the programs goes to the
//! system agent, which has the guest's own package manager install it, ends, and comes back.

use super::agents::{Agent, Agents, problem};
use super::vms::Vms;
use crate::launch::guest_package;
use crate::lifecycle::Action;
use crate::problem::{Kind, Problem};
use agent_link::Role;
use proto::v1::update_chunk::Chunk;
use proto::v1::{Feature, UpdateAgentRequest, UpdateChunk, UpdateStart};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The package is built with these programs and has their version; a guest refuses one that says another.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Largest package, as the protocol says.
const LARGEST: u64 = 64 << 20;
const CHUNK: usize = 64 << 10;
/// How long a guest may take to take the package and begin.
const TAKING: Duration = Duration::from_secs(120);
/// Longest wait for the agent to come back, in seconds.
const LONGEST_PATIENCE: u32 = 3600;

/// The version that an update would install, where it would change something.
pub(super) fn offer(agent: &Agent) -> Option<String> {
    let other = agent.facts.program != VERSION || agent.facts.foreign;
    let offered = other && agent.role == Role::System && agent.can(Feature::Update);
    (offered && guest_package().is_some()).then(|| VERSION.to_owned())
}

/// Answers when the agent is back.
///
/// # Errors
/// There is no agent or no package, or the guest does not install it.
pub(super) async fn update(vms: &Vms, request: UpdateAgentRequest) -> Result<(), Problem> {
    let patience = request.patience;
    if !(1..=LONGEST_PATIENCE).contains(&patience) {
        return Err(Problem::usage(format!(
            "the wait for the agent is {patience} seconds; allowed: 1 to {LONGEST_PATIENCE}"
        )));
    }
    let vm = vms.get(&request.name).await?;
    vm.look().await.state.check(&request.name, Action::Attach)?;
    let agents = vm.agents();
    let found = agents.as_deref().and_then(|agents| system(&agents.all()));
    let (Some(agents), Some(agent)) = (agents, found) else {
        let message =
            format!("no agent of VM \"{}\" that can be updated is connected", request.name);
        return Err(Problem::new(Kind::Unavailable, message)
            .advise("install the package macrohard-guest-agent in the guest"));
    };
    if agent.facts.program == VERSION && !agent.facts.foreign && !request.force {
        return Ok(());
    }
    let path = guest_package().ok_or_else(|| {
        Problem::failed("there is no package of the guest's agent beside the programs")
            .advise("`cargo xtask package` makes it")
    })?;
    let reading = tokio::task::spawn_blocking(move || read(&path)).await;
    let package = reading.map_err(Problem::failed)??;
    send(&agent, package).await?;
    tracing::info!(vm = request.name, "the guest installs its new agent");
    come_back(&agents, agent.number, Duration::from_secs(patience.into())).await.ok_or_else(|| {
        if agents.is_over() {
            let message = "the guest took the package, but its VM ended before the agent came back";
            return Problem::failed(message)
                .advise("start it again: `dpkg --audit` in the guest tells whether the installation is complete");
        }
        let message = format!(
            "the guest took the package, but agent {VERSION} did not come back within {patience} seconds"
        );
        Problem::new(Kind::TimedOut, message)
            .advise("`journalctl -u macrohard-guest-update` in the guest tells what dpkg said")
    })
}

/// The one that installs packages.
fn system(agents: &[Agent]) -> Option<Agent> {
    let able = |agent: &&Agent| agent.role == Role::System && agent.can(Feature::Update);
    agents.iter().find(able).cloned()
}

/// Waits for the system agent in its new version on another connection.
async fn come_back(agents: &Agents, before: u64, patience: Duration) -> Option<()> {
    let new = |agent: &Agent| {
        agent.role == Role::System
            && agent.number != before
            && agent.facts.program == VERSION
            && !agent.facts.foreign
    };
    agents.wait_for(patience, |agents| agents.iter().any(new).then_some(())).await
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let failed = |error| Problem::failed(format!("cannot read {}: {error}", path.display()));
    let mut package = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_end(&mut package).map_err(failed)?;
    if package.is_empty() || package.len() as u64 > LARGEST {
        let message = format!("{} is empty or has more than {LARGEST} bytes", path.display());
        return Err(Problem::failed(message));
    }
    Ok(package)
}

/// The announcement and the pieces.
fn chunks(package: &[u8]) -> Vec<UpdateChunk> {
    let start = UpdateStart {
        version: VERSION.to_owned(),
        size: package.len() as u64,
        digest: Sha256::digest(package).to_vec(),
    };
    let pieces = package.chunks(CHUNK).map(|piece| Chunk::Data(piece.to_vec()));
    let chunks = std::iter::once(Chunk::Start(start)).chain(pieces);
    chunks.map(|chunk| UpdateChunk { chunk: Some(chunk) }).collect()
}

async fn send(agent: &Agent, package: Vec<u8>) -> Result<(), Problem> {
    let chunks = tokio_stream::iter(chunks(&package));
    drop(package);
    let sending = async { agent.client().update(chunks).await };
    match tokio::time::timeout(TAKING, sending).await {
        Ok(Ok(_)) => Ok(()),
        // The installation may end the agent before its answer is out. Whether it comes back tells.
        Ok(Err(status)) if std::error::Error::source(&status).is_some() => Ok(()),
        Ok(Err(status)) => Err(problem(status)),
        Err(_) => Err(Problem::new(Kind::TimedOut, "the guest's agent does not take the package")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::agents::Facts;

    #[test]
    fn the_pieces_are_the_package() {
        let package: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut chunks = chunks(&package).into_iter().map(|chunk| chunk.chunk.unwrap());
        let Some(Chunk::Start(start)) = chunks.next() else {
            panic!("the first piece is not the announcement");
        };
        assert_eq!((start.size, start.version.as_str()), (200_000, VERSION));
        let mut back = Vec::new();
        for chunk in chunks {
            let Chunk::Data(data) = chunk else {
                panic!("another announcement");
            };
            assert!((1..=CHUNK).contains(&data.len()));
            back.extend(data);
        }
        assert_eq!(back, package);
        assert_eq!(start.digest, Sha256::digest(&back).to_vec());
    }

    #[tokio::test]
    async fn the_system_agent_is_updated_and_no_other() {
        let agent =
            |role, features| Agent::to_nowhere(role, Facts { features, ..Facts::default() });
        let able = vec![Feature::Update];
        let (user, system) = (Role::User(1000), Role::System);
        assert!(super::system(&[agent(user, able.clone())]).is_none());
        assert!(super::system(&[agent(system, vec![Feature::Exec])]).is_none());
        assert_eq!(
            super::system(&[agent(user, able.clone()), agent(system, able)]).unwrap().role,
            system
        );
    }
}

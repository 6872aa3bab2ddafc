//! Starting an application of a guest: the VM is started or resumed first, files are made reachable.

use super::agents::{Agent, Agents, problem};
use super::integration::applications::is_person;
use super::integration::shares::Rights;
use super::vm::Vm;
use super::vms::Vms;
use crate::launchers::list::{is_action_id, is_id};
use crate::lifecycle::{Action, VmState};
use crate::problem::{Kind, Problem};
use agent_link::Role;
use proto::v1::launch_progress::Progress;
use proto::v1::launch_target::Target;
use proto::v1::{
    ControlLaunchRequest, Feature, LaunchProgress, LaunchReply, LaunchRequest, LaunchTarget,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;
use url::Url;

/// Longest wait for a guest and its agent, in seconds.
const LONGEST_PATIENCE: u32 = 3600;
/// Files and URLs at once, and bytes of one URL.
const MOST_TARGETS: usize = 256;
const LONGEST_URL: usize = 8192;
/// How long the guest may take to start the application, at least: one that has just started reads its disk.
const CALL_PATIENCE: Duration = Duration::from_secs(30);
/// How often a VM whose agent is waited for is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// URLs that are themselves what they open.
const NOT_OPENED: [&str; 5] = ["javascript", "vbscript", "data", "blob", "about"];

/// Where the steps go. A client that has gone hears nothing, and everything goes on.
struct Steps(mpsc::Sender<Result<LaunchProgress, Status>>);

/// Tells each step, then that it is launched, or why not.
pub(super) async fn launch(
    vms: Vms,
    request: ControlLaunchRequest,
    to: mpsc::Sender<Result<LaunchProgress, Status>>,
) {
    let steps = Steps(to);
    let launched = steps.launch(&vms, &request).await;
    let last = match launched {
        Ok(reply) => Ok(LaunchProgress { progress: Some(Progress::Launched(reply)) }),
        Err(problem) => {
            let (vm, id) = (&request.name, &request.application);
            tracing::warn!(vm, id, %problem, "an application is not launched");
            Err(problem.into())
        }
    };
    let _ = steps.0.send(last).await;
}

impl Steps {
    async fn tell(&self, step: String) {
        let progress = Some(Progress::Step(step));
        let _ = self.0.send(Ok(LaunchProgress { progress })).await;
    }

    async fn launch(
        &self,
        vms: &Vms,
        request: &ControlLaunchRequest,
    ) -> Result<LaunchReply, Problem> {
        let order = Order::check(request)?;
        let vm = vms.get(&request.name).await?;
        let application = vm.integration().applications.find(&request.application);
        if let Some(application) = application
            && !application.opens
            && !order.targets.is_empty()
        {
            return Err(Problem::usage(format!("{:?} opens no files", request.application)));
        }
        self.run(vms, &vm, &request.name).await?;
        let deadline = Instant::now() + order.patience;
        let agent = self.agent(&vm, request, deadline).await?;
        let mut targets = Vec::new();
        for target in order.targets {
            let target = match target {
                Asked::Url(url) => Target::Url(url),
                Asked::File(path) => {
                    self.tell(format!("making {} reachable", path.display())).await;
                    Target::Shared(vm.integration().shares.reach(&path, Rights::AsTheHost).await?)
                }
            };
            targets.push(LaunchTarget { target: Some(target) });
        }
        self.tell(format!("launching {}", request.application)).await;
        let call = LaunchRequest {
            application: request.application.clone(),
            action: request.action.clone(),
            targets,
        };
        vm.integration().windows.launched();
        let patience = deadline.saturating_duration_since(Instant::now()).max(CALL_PATIENCE);
        match tokio::time::timeout(patience, agent.client().launch(call)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                Err(problem(status)
                    .advise(format!("`apps \"{}\"` shows what there is", request.name)))
            }
            Ok(Err(status)) => Err(problem(status)),
            Err(_) => Err(Problem::new(
                Kind::TimedOut,
                format!("the guest did not answer within {} seconds", patience.as_secs()),
            )),
        }
    }

    /// Has the VM's guest run.
    async fn run(&self, vms: &Vms, vm: &Arc<Vm>, name: &str) -> Result<(), Problem> {
        let state = vm.look().await.state;
        let done = match state {
            VmState::Running | VmState::Starting => return Ok(()),
            VmState::Paused => {
                self.tell(format!("resuming VM \"{name}\"")).await;
                vm.resume().await
            }
            VmState::Stopping => return Ok(state.check(name, Action::Start)?),
            VmState::Created | VmState::Stopped | VmState::Crashed => {
                self.tell(format!("starting VM \"{name}\"")).await;
                vms.start(name).await.map(|_| ())
            }
        };
        match done {
            // Another client was faster.
            Err(Problem { kind: Kind::Refused, .. })
                if matches!(vm.look().await.state, VmState::Running | VmState::Starting) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// The agent of the session in which the application is to run.
    async fn agent(
        &self,
        vm: &Arc<Vm>,
        request: &ControlLaunchRequest,
        deadline: Instant,
    ) -> Result<Agent, Problem> {
        let has = |role| vm.integration().applications.has(role, &request.application);
        let mut told = false;
        loop {
            let agents = vm.agents();
            let found = agents.as_ref().and_then(|agents| choose(&agents.all(), has));
            if let Some(agent) = found {
                return Ok(agent);
            }
            if !told {
                self.tell("waiting for the guest's desktop session".to_owned()).await;
                told = true;
            }
            let sight = vm.look().await;
            if !sight.state.is_active() {
                return Err(Problem::failed(format!(
                    "VM \"{}\" has ended before an application could be launched",
                    request.name
                ))
                .advise(format!("`status \"{}\"` shows why", request.name)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(nobody(&request.name, agents.as_deref()));
            }
            let pause = left.min(INTERVAL);
            match agents {
                Some(agents) => {
                    agents.wait_for(pause, |agents| choose(agents, has).map(|_| ())).await;
                }
                None => tokio::time::sleep(pause).await,
            }
        }
    }
}

/// Of a person's session; one that has told of the application before others.
fn choose(agents: &[Agent], has: impl Fn(Role) -> bool) -> Option<Agent> {
    let able: Vec<&Agent> = agents
        .iter()
        .filter(|agent| is_person(agent.role) && agent.can(Feature::Applications))
        .collect();
    let telling = able.iter().find(|agent| has(agent.role));
    telling.or(able.first()).map(|agent| (*agent).clone())
}

/// Why no session was found.
fn nobody(name: &str, agents: Option<&Agents>) -> Problem {
    let system =
        agents.is_some_and(|agents| agents.all().iter().any(|agent| agent.role == Role::System));
    if system {
        return Problem::new(
            Kind::TimedOut,
            format!("nobody is logged in to the desktop of VM \"{name}\""),
        )
        .advise("log in there, or let the guest log a user in by itself");
    }
    Problem::new(Kind::TimedOut, format!("no agent of a session of VM \"{name}\" is connected"))
        .advise(
            "the guest may still start (--wait waits longer), or the agent is not installed there",
        )
}

/// A file or a URL of the host.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    File(PathBuf),
    Url(String),
}

/// A request that was checked.
struct Order {
    targets: Vec<Asked>,
    patience: Duration,
}

impl Order {
    fn check(request: &ControlLaunchRequest) -> Result<Self, Problem> {
        if request.patience > LONGEST_PATIENCE {
            return Err(Problem::usage(format!(
                "the wait for the guest is {} seconds; allowed: 0 to {LONGEST_PATIENCE}",
                request.patience
            )));
        }
        if !is_id(&request.application) {
            return Err(Problem::usage(format!(
                "{:?} is not the id of an application; allowed: 1 to 128 letters, digits and -_.",
                request.application
            ))
            .advise(format!("`apps \"{}\"` shows what there is", request.name)));
        }
        if !request.action.is_empty() && !is_action_id(&request.action) {
            return Err(Problem::usage(format!(
                "{:?} is not the id of an action; allowed: 1 to 64 letters, digits and -",
                request.action
            )));
        }
        if request.targets.len() > MOST_TARGETS {
            return Err(Problem::usage(format!(
                "{} files are to be opened; allowed: {MOST_TARGETS}",
                request.targets.len()
            )));
        }
        let targets: Result<_, _> = request.targets.iter().map(|target| asked(target)).collect();
        Ok(Self { targets: targets?, patience: Duration::from_secs(request.patience.into()) })
    }
}

/// What is to be opened: an absolute path, or a URL.
fn asked(target: &[u8]) -> Result<Asked, Problem> {
    if target.starts_with(b"/") {
        return Ok(Asked::File(Path::new(OsStr::from_bytes(target)).to_owned()));
    }
    let text = String::from_utf8_lossy(target);
    let neither = || Problem::usage(format!("{text:?} is neither an absolute path nor a URL"));
    let url =
        str::from_utf8(target).ok().and_then(|text| Url::parse(text).ok()).ok_or_else(neither)?;
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| {
            Problem::usage(format!("{text:?} is not the URL of a file of this host"))
        })?;
        return Ok(Asked::File(path));
    }
    if NOT_OPENED.contains(&url.scheme()) {
        return Err(Problem::usage(format!(
            "URLs of the scheme {:?} are not opened",
            url.scheme()
        )));
    }
    let url = String::from(url);
    if url.len() > LONGEST_URL {
        return Err(Problem::usage(format!(
            "a URL has {} bytes; allowed: {LONGEST_URL}",
            url.len()
        )));
    }
    Ok(Asked::Url(url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::agents::Facts;

    #[test]
    fn what_is_opened_is_a_file_or_a_url() {
        let file = |path: &str| Asked::File(path.into());
        let url = |url: &str| Asked::Url(url.to_owned());
        for (target, expected) in [
            ("/a b", file("/a b")),
            ("/http://x", file("/http://x")),
            ("file:///a%20b", file("/a b")),
            ("file://localhost/a", file("/a")),
            ("https://example.org/a b", url("https://example.org/a%20b")),
            ("mailto:ann@example.org", url("mailto:ann@example.org")),
        ] {
            assert_eq!(asked(target.as_bytes()).unwrap(), expected, "{target}");
        }
        let long = format!("http://x/{}", "y".repeat(9000));
        for bad in [
            "",
            "a",
            "./a",
            "-x",
            "http:",
            "javascript:alert(1)",
            "JavaScript:x",
            "data:,x",
            "file://elsewhere/a",
            &long,
        ] {
            assert_eq!(asked(bad.as_bytes()).unwrap_err().kind, Kind::Usage, "{bad}");
        }
        assert_eq!(asked(b"/\xff").unwrap(), Asked::File(OsStr::from_bytes(b"/\xff").into()));
        assert!(asked(b"\xff").is_err());
    }

    #[test]
    fn an_order_that_breaks_a_limit_is_refused() {
        let good = || ControlLaunchRequest { application: "a".into(), ..Default::default() };
        assert!(Order::check(&good()).is_ok());
        for bad in [
            ControlLaunchRequest { application: String::new(), ..good() },
            ControlLaunchRequest { application: "a/b".into(), ..good() },
            ControlLaunchRequest { action: "a b".into(), ..good() },
            ControlLaunchRequest { targets: vec![b"/a".to_vec(); 257], ..good() },
            ControlLaunchRequest { patience: 3601, ..good() },
        ] {
            assert_eq!(Order::check(&bad).err().map(|problem| problem.kind), Some(Kind::Usage));
        }
    }

    #[tokio::test]
    async fn an_application_runs_in_the_session_that_told_of_it() {
        let agent =
            |role, features| Agent::to_nowhere(role, Facts { features, ..Facts::default() });
        let able = |role| agent(role, vec![Feature::Applications]);
        let [ann, bob] = [1000, 1001].map(Role::User);
        let all = [
            able(Role::System),
            able(Role::User(33)),
            agent(Role::User(999), vec![]),
            able(ann),
            able(bob),
        ];
        let chosen = |agents: &[Agent], telling| {
            choose(agents, |role| Some(role) == telling).map(|agent| agent.role)
        };
        assert_eq!(chosen(&all, None), Some(ann));
        assert_eq!(chosen(&all, Some(bob)), Some(bob));
        assert_eq!(chosen(&all, Some(Role::User(33))), Some(ann));
        assert_eq!(chosen(&all[..3], None), None);
        assert_eq!(chosen(&[agent(ann, vec![Feature::Exec])], None), None);
    }
}

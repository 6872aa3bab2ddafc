//! One VM as the daemon sees it: what state it is in, and the steps that change it.

use super::agents::{Agents, Audience};
use super::desktop::Desktop;
use super::integration::{About, Integration};
use super::process::{Process, ask, describe_end};
use super::records::Records;
use crate::lifecycle::{Action, Facts, VmState, describe, observe};
use crate::problem::{Kind, Problem};
use definition::{EngineChoice, Places, Store, VmDefinition};
use proto::v1;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use vm_control::{Ending, LaunchSpec, Phase, Reply, Request, Status};

/// How long a process may take to say where it stands.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How long a step (pause, reset) may take.
const STEP_PATIENCE: Duration = Duration::from_secs(20);
/// How long a start may stay in set-up before the daemon leaves it to itself.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end in order when forced.
const QUIT_PATIENCE: Duration = vmm::QUIT_PATIENCE.saturating_add(Duration::from_secs(5));

/// A VM: its records, and its process while there is one.
#[derive(Debug)]
pub(super) struct Vm {
    name: String,
    places: Places,
    records: Records,
    integration: Arc<Integration>,
    /// The integration, but in tests.
    audience: Arc<dyn Audience>,
    events: broadcast::Sender<v1::Event>,
    /// Where its agents are heard.
    guests: Handle,
    /// Held during a step, so that steps come one at a time.
    turn: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
}

#[derive(Debug)]
enum Live {
    /// No process that the daemon knows of.
    Idle,
    /// One is about to be started.
    Launching,
    /// This one.
    Process(Held),
}

#[derive(Clone, Debug)]
struct Held {
    process: Process,
    ended: watch::Receiver<bool>,
    /// None of a VM process that an older daemon started.
    agents: Option<Arc<Agents>>,
    answered: bool,
    /// Number of clients that wait for a polite end.
    stop_asked: u32,
    /// The daemon itself ended it.
    forced: bool,
}

/// What [`Vm::look`] found.
pub(super) struct Sight {
    pub(super) state: VmState,
    process: Option<Process>,
    status: Option<Status>,
}

impl Vm {
    pub(super) fn new(
        name: &str,
        places: &Places,
        store: &Store,
        desktop: &Arc<Desktop>,
        events: broadcast::Sender<v1::Event>,
        guests: Handle,
    ) -> Arc<Self> {
        let about = About {
            vm: name.to_owned(),
            places: places.clone(),
            store: store.clone(),
            desktop: Arc::clone(desktop),
        };
        let integration = Arc::new(Integration::new(about));
        Arc::new(Self {
            name: name.to_owned(),
            places: places.clone(),
            records: Records::new(places, name),
            audience: Arc::clone(&integration) as Arc<dyn Audience>,
            integration,
            events,
            guests,
            turn: tokio::sync::Mutex::default(),
            live: Mutex::new(Live::Idle),
        })
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// What of it reaches the desktop.
    pub(super) fn integration(&self) -> &Arc<Integration> {
        &self.integration
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Option<Held> {
        match &*self.live() {
            Live::Process(held) => Some(held.clone()),
            Live::Idle | Live::Launching => None,
        }
    }

    fn with_held(&self, change: impl FnOnce(&mut Held)) {
        if let Live::Process(held) = &mut *self.live() {
            change(held);
        }
    }

    fn tell(&self, state: VmState, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(vm = self.name, %state, message);
        // Nobody may be listening.
        let _ = self.events.send(v1::Event {
            time: crate::launch::unix_time(),
            name: self.name.clone(),
            state: state_number(state),
            message,
        });
    }

    /// Takes a running process that this daemon did not start under its watch.
    pub(super) fn adopt(self: &Arc<Self>) -> bool {
        let mut live = self.live();
        if !matches!(*live, Live::Idle) {
            return false;
        }
        let Some(process) = Process::find(&self.records.files().pid()) else {
            return false;
        };
        *live = self.watch(process, None);
        true
    }

    fn watch(self: &Arc<Self>, process: Process, child: Option<Child>) -> Live {
        let (ended, end) = watch::channel(false);
        let vm = Arc::clone(self);
        let watched = process.clone();
        tokio::spawn(async move {
            if let Err(error) = watched.ended().await {
                tracing::error!(vm = vm.name, %error, "cannot watch the VM process");
            }
            // It has ended, so this only fetches the status.
            let status = child.and_then(|mut child| child.wait().ok());
            // On our core a process that was killed leaves its partition, and with it its memory.
            let _ = tokio::task::spawn_blocking(engine::core::reap).await;
            vm.finish(status);
            let _ = ended.send(true);
        });
        self.audience.started();
        Live::Process(Held {
            process,
            ended: end,
            agents: self.listen_for_agents().map(Arc::new),
            answered: false,
            stop_asked: 0,
            forced: false,
        })
    }

    /// Without agents the VM runs all the same.
    fn listen_for_agents(&self) -> Option<Agents> {
        let token = self.records.launch_spec()?.agent_token?.parse().ok()?;
        let files = self.records.files();
        let _there = self.guests.enter();
        let (integration, audience) = (Arc::clone(&self.integration), Arc::clone(&self.audience));
        let listening = Agents::listen(&self.name, &files, token, integration, audience);
        listening.inspect_err(|problem| tracing::error!(vm = self.name, %problem)).ok()
    }

    /// The guest's agents, while a process runs.
    pub(super) fn agents(&self) -> Option<Arc<Agents>> {
        self.held()?.agents
    }

    /// The process has ended: completes its record and tells.
    fn finish(&self, status: Option<std::process::ExitStatus>) {
        let mut live = self.live();
        let forced = matches!(&*live, Live::Process(held) if held.forced);
        if self.records.exit().is_none() && self.records.started_before() {
            let ending = if forced {
                Ending::Stopped
            } else {
                Ending::Failed { message: describe_end(status) }
            };
            if let Err(problem) = self.records.write_exit(ending) {
                tracing::error!(vm = self.name, %problem, "the end of the VM is not recorded");
            }
        }
        // Before a new process may start: it begins with what this one left.
        if let Live::Process(Held { agents: Some(agents), .. }) = &*live {
            agents.end();
        }
        self.audience.ended();
        *live = Live::Idle;
        drop(live);
        let record = self.records.exit();
        let state = observe(Facts::NoProcess {
            started_before: self.records.started_before(),
            record: record.as_ref(),
        });
        self.tell(state, describe(record.as_ref()));
    }

    /// Where the VM stands now.
    pub(super) async fn look(self: &Arc<Self>) -> Sight {
        // A process may have been started by a daemon that was killed before it took its lock.
        self.adopt();
        if matches!(*self.live(), Live::Launching) {
            return Sight { state: VmState::Starting, process: None, status: None };
        }
        if let Some(held) = self.held() {
            let answer =
                ask(self.records.files().control(), Request::Status, STATUS_PATIENCE).await;
            let status = match answer {
                Ok(Reply::Status(status)) => Some(status),
                _ => None,
            };
            if status.is_some() || held.process.is_alive() {
                if status.is_some() {
                    self.with_held(|held| held.answered = true);
                }
                return Sight {
                    state: observe(Facts::Process {
                        phase: status.as_ref().map(|status| status.phase),
                        answered_before: held.answered,
                        stop_asked: held.stop_asked > 0,
                    }),
                    process: Some(held.process),
                    status,
                };
            }
            self.wait_for_end(&held).await;
        }
        let record = self.records.exit();
        Sight {
            state: observe(Facts::NoProcess {
                started_before: self.records.started_before(),
                record: record.as_ref(),
            }),
            process: None,
            status: None,
        }
    }

    async fn wait_for_end(&self, held: &Held) {
        // An error means that the watching task is gone, which it is only after the end.
        let _ = held.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Everything a client is told about the VM.
    pub(super) async fn describe(self: &Arc<Self>, definition: Option<&VmDefinition>) -> v1::Vm {
        let sight = self.look().await;
        let launched = sight.process.as_ref().and_then(|_| self.records.launched());
        let definition = launched.as_ref().or(definition);
        let mut vm = v1::Vm {
            name: self.name.clone(),
            state: state_number(sight.state),
            memory: definition.map_or(0, |definition| definition.memory),
            cpus: definition.map_or(0, |definition| definition.cpus),
            engine: definition
                .map(|definition| crate::engines::name(definition.engine).to_owned())
                .unwrap_or_default(),
            pid: sight.process.as_ref().map_or(0, |process| process.pid),
            ..v1::Vm::default()
        };
        if let Some(status) = sight.status {
            vm.engine = status.engine;
            vm.uptime = status.uptime;
            vm.memory = status.memory;
            vm.cpus = status.cpus;
        }
        vm.windows = Some(self.integration.windows.state().await);
        if let Some(agents) = self.agents() {
            vm.agents = agents.all().into_iter().map(v1::Agent::from).collect();
        }
        if matches!(sight.state, VmState::Stopped | VmState::Crashed) {
            let record = self.records.exit();
            vm.ending = describe(record.as_ref());
            vm.ended_at = record.as_ref().map_or(0, |record| record.time);
            if let Some(Ending::DebugExit { code }) = record.map(|record| record.ending) {
                vm.exit_code = Some(code.into());
            }
        }
        if sight.state == VmState::Crashed {
            vm.last_console_lines = self.records.last_console_lines();
        }
        vm
    }

    /// Starts the VM and waits until its guest runs.
    pub(super) async fn start(
        self: &Arc<Self>,
        definition: VmDefinition,
        engine: EngineChoice,
    ) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        self.check(Action::Start).await?;
        // What an earlier process left: sockets, its pid file.
        let _ = std::fs::remove_dir_all(&self.records.runtime);
        self.places.make_for(&self.name)?;
        let spec = LaunchSpec {
            version: vm_control::VERSION,
            definition,
            engine,
            runtime: self.records.runtime.clone(),
            state: self.records.state.clone(),
            foreground: false,
            agent_token: Some(token()?),
            timeout: None,
        };
        let before = {
            let mut live = self.live();
            *live = Live::Launching;
            let launched =
                self.records.begin(&spec).and_then(|before| match Process::start(&spec) {
                    Ok(started) => Ok((before, started)),
                    Err(problem) => {
                        self.records.undo(&before);
                        Err(problem)
                    }
                });
            match launched {
                Ok((before, (process, child))) => {
                    *live = self.watch(process, Some(child));
                    before
                }
                Err(problem) => {
                    *live = Live::Idle;
                    return Err(problem);
                }
            }
        };
        self.tell(VmState::Starting, "starting");
        if self.wait_until_it_runs().await {
            self.tell(VmState::Running, "running");
            self.integration.windows.running();
            return Ok(());
        }
        let record = self.records.exit();
        let ran = !matches!(
            record.as_ref().map(|record| &record.ending),
            None | Some(Ending::Failed { .. })
        );
        if ran {
            // So short a guest that it ended before it was seen running.
            return Ok(());
        }
        let reason = describe(record.as_ref());
        self.records.undo(&before);
        Err(Problem::failed(format!("VM \"{}\" cannot start: {reason}", self.name))
            .advise(format!("`logs \"{}\"` shows the log of its process", self.name)))
    }

    /// True once the guest runs (or still sets up after a long time), false when the process ended.
    async fn wait_until_it_runs(self: &Arc<Self>) -> bool {
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        let mut pause = Duration::from_millis(2);
        while tokio::time::Instant::now() < deadline {
            let Some(held) = self.held() else {
                return false;
            };
            let sight = self.look().await;
            if sight.status.is_some_and(|status| status.phase != Phase::Starting) {
                return true;
            }
            let mut ended = held.ended.clone();
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        true
    }

    async fn check(self: &Arc<Self>, action: Action) -> Result<Sight, Problem> {
        let sight = self.look().await;
        sight.state.check(&self.name, action)?;
        Ok(sight)
    }

    /// A step that the VM process does by itself.
    async fn step(
        self: &Arc<Self>,
        action: Action,
        request: Request,
        done: &str,
    ) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        self.check(action).await?;
        ask(self.records.files().control(), request, STEP_PATIENCE).await?;
        let state = self.look().await.state;
        self.tell(state, done);
        Ok(())
    }

    pub(super) async fn pause(self: &Arc<Self>) -> Result<(), Problem> {
        self.step(Action::Pause, Request::Pause, "paused").await
    }

    pub(super) async fn resume(self: &Arc<Self>) -> Result<(), Problem> {
        self.step(Action::Resume, Request::Resume, "resumed").await?;
        if let Some(agents) = self.agents() {
            // The guest may take its time: the VM runs on.
            tokio::spawn(async move { agents.set_time().await });
        }
        Ok(())
    }

    pub(super) async fn reset(self: &Arc<Self>) -> Result<(), Problem> {
        self.step(Action::Reset, Request::Reset, "reset").await
    }

    /// Presses the power button and waits for the guest to obey.
    pub(super) async fn stop(self: &Arc<Self>, patience: Duration) -> Result<(), Problem> {
        self.step(Action::Stop, Request::PowerButton, "power button pressed").await?;
        let Some(held) = self.held() else {
            return Ok(());
        };
        self.with_held(|held| held.stop_asked += 1);
        let _waiting = Waiting(self);
        self.tell(VmState::Stopping, "waiting for the guest to power off");
        match tokio::time::timeout(patience, self.wait_for_end(&held)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Problem::new(
                Kind::TimedOut,
                format!(
                    "VM \"{}\" did not power off within {} seconds and still runs",
                    self.name,
                    patience.as_secs()
                ),
            )
            .advise("the guest may ignore its power button: wait longer, or use stop --force")),
        }
    }

    /// Ends the VM now.
    pub(super) async fn force_stop(self: &Arc<Self>) -> Result<(), Problem> {
        let sight = self.check(Action::ForceStop).await?;
        let Some(held) = self.held() else {
            return Err(Problem::new(
                Kind::Refused,
                format!("VM \"{}\" is just being started", self.name),
            )
            .advise("try again in a moment"));
        };
        self.with_held(|held| held.forced = true);
        if sight.status.is_some() {
            // It may end before it answers; whether it ended is what counts.
            let _ = ask(self.records.files().control(), Request::Quit, STATUS_PATIENCE).await;
            if tokio::time::timeout(QUIT_PATIENCE, self.wait_for_end(&held)).await.is_ok() {
                return Ok(());
            }
        }
        held.process.kill().map_err(|error| {
            Problem::failed(format!(
                "cannot kill process {} of VM \"{}\": {error}",
                held.process.pid, self.name
            ))
        })?;
        self.wait_for_end(&held).await;
        Ok(())
    }

    /// A question to the running VM process.
    pub(super) async fn ask(self: &Arc<Self>, request: Request) -> Result<Reply, Problem> {
        self.check(Action::Attach).await?;
        ask(self.records.files().control(), request, STEP_PATIENCE).await
    }

    /// Removes what the VM left, after `forget` removed its definition.
    pub(super) async fn delete(
        self: &Arc<Self>,
        forget: impl FnOnce() -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        self.check(Action::Delete).await?;
        forget()?;
        self.integration.deleted();
        for folder in [&self.records.runtime, &self.records.state] {
            match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Problem::failed(format!(
                        "VM \"{}\" is deleted, but {} cannot be removed: {error}",
                        self.name,
                        folder.display()
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Someone waits for a polite end; dropped when the wait is over or the client has gone.
struct Waiting<'a>(&'a Vm);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with_held(|held| held.stop_asked = held.stop_asked.saturating_sub(1));
    }
}

/// What the agents of the next run prove themselves with.
fn token() -> Result<String, Problem> {
    let token = agent_link::Token::random();
    let token = token.map_err(|error| Problem::failed(format!("no random numbers: {error}")))?;
    Ok(token.to_string())
}

/// The state as it travels.
pub(super) fn state_number(state: VmState) -> i32 {
    let state = match state {
        VmState::Created => v1::State::Created,
        VmState::Starting => v1::State::Starting,
        VmState::Running => v1::State::Running,
        VmState::Paused => v1::State::Paused,
        VmState::Stopping => v1::State::Stopping,
        VmState::Stopped => v1::State::Stopped,
        VmState::Crashed => v1::State::Crashed,
    };
    state.into()
}

#[cfg(test)]
mod tests;

//! The agents of one running VM: who is connected, and the way to them.
//!
//! The daemon listens where the VM process brings the guest's connections to the agents' port. Each
//! connection proves which agent it is; then the host's calls go over one and the agent's over another.
//! Whatever a guest does here costs it its own connections and no more: their number, the time to the
//! proof, and the size of every message are bounded.

mod from_guest;
mod languages;
mod serial;

use crate::daemon::integration::Integration;
use crate::daemon::update;
use crate::problem::{Kind, Problem};
use crate::untrusted::Untrusted;
use agent_link::{
    Channel, Direction, Gone, MAX_MESSAGE, PORT, Role, Token, admit, channel, receive, serve,
};
use from_guest::FromGuest;
use log_limits::Seldom;
use proto::v1::guest_client::GuestClient;
use proto::v1::host_server::HostServer;
use proto::v1::{self, Feature, SetTimeRequest};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use vm_control::Files;

/// Connections at once that have not proven themselves.
const MOST_STRANGERS: usize = 8;
/// Agents at once: the system's and some users'.
const MOST_AGENTS: usize = 16;
/// How long a guest may take to answer a call that does nothing lengthy.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Longest message of a guest that is passed on, in bytes.
const MESSAGE: usize = 512;

/// Who is told of a VM's process and its agents: of each agent that comes and, before it comes again, that it left.
/// One thing at a time, in the order in which it happened. All return soon.
pub(super) trait Audience: std::fmt::Debug + Send + Sync {
    /// An agent is there, with both connections.
    fn came(&self, agent: &Agent);
    /// An agent that came, or that said of itself what it is, is not there any more.
    fn left(&self, role: Role);
    /// The VM process has started, or one that runs was found. What one before left is gone.
    fn started(&self);
    /// The VM process has ended; all agents have left.
    fn ended(&self);
}

/// Of one VM process; at its end or dropped, the socket is left and all connections end.
#[derive(Debug)]
pub(super) struct Agents {
    desk: Arc<Desk>,
    listening: JoinHandle<()>,
    carrying: JoinHandle<()>,
}

/// What an agent said of itself, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) program: String,
    pub(super) system: String,
    pub(super) user: String,
    pub(super) features: Vec<Feature>,
    /// It speaks another protocol.
    pub(super) foreign: bool,
}

/// An agent with both connections.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) role: Role,
    pub(super) facts: Facts,
    /// Of its connection: another when it has come anew.
    pub(super) number: u64,
    channel: Channel,
}

#[derive(Debug)]
struct Desk {
    vm: String,
    token: Token,
    agents: Mutex<Table>,
    changed: watch::Sender<()>,
    /// What sessions' agents tell goes there.
    integration: Arc<Integration>,
    /// The integration, but in tests.
    audience: Arc<dyn Audience>,
    /// Held from the look at what has changed until the audience knows.
    telling: Mutex<()>,
    lines: Seldom,
}

/// The agents of a VM process.
#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Role, Entry>,
    /// The process has ended: none comes any more.
    over: bool,
}

/// One agent as its connections come and go.
#[derive(Debug, Default)]
struct Entry {
    serves: Option<(u64, Channel)>,
    calls: Option<Facts>,
    /// It was there, and the audience knows.
    known: bool,
    /// It has said what it is, so what it tells is heard.
    heard: bool,
    /// The connection on which it calls.
    answered: Option<(u64, AbortHandle)>,
}

impl Agents {
    /// Listens for agents of VM `vm`, which has these files, also for those that come over its serial port. They are
    /// heard in the runtime that this is called in.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(super) fn listen(
        vm: &str,
        files: &Files<'_>,
        token: Token,
        integration: Arc<Integration>,
        audience: Arc<dyn Audience>,
    ) -> Result<Self, Problem> {
        let path = files.host_port(PORT);
        let failed = |error| {
            Problem::failed(format!("cannot listen for agents at {}: {error}", path.display()))
        };
        // An earlier daemon's.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let desk = Arc::new(Desk {
            vm: vm.to_owned(),
            token,
            agents: Mutex::default(),
            changed: watch::channel(()).0,
            integration,
            audience,
            telling: Mutex::default(),
            lines: Seldom::default(),
        });
        let listening = tokio::spawn(Arc::clone(&desk).accept(listener));
        let carrying =
            tokio::spawn(serial::carry(vm.to_owned(), files.agent_port(), serial::ports(files)));
        Ok(Self { desk, listening, carrying })
    }

    /// Those that are there, the system's first.
    pub(super) fn all(&self) -> Vec<Agent> {
        let agents = self.desk.agents();
        agents.entries.iter().filter_map(|(role, entry)| entry.agent(*role)).collect()
    }

    /// Leaves the socket, ends all connections, and tells of each agent that it has left. Whoever waits for an
    /// agent waits no more.
    pub(super) fn end(&self) {
        self.listening.abort();
        self.carrying.abort();
        self.desk.end();
    }

    /// The VM process has ended.
    pub(super) fn is_over(&self) -> bool {
        self.desk.agents().over
    }

    /// Waits until `found` finds what it looks for, for as long as `patience` and the VM process.
    pub(super) async fn wait_for<T>(
        &self,
        patience: Duration,
        found: impl Fn(&[Agent]) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.desk.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = found(&self.all()) {
                    return Some(found);
                }
                if self.is_over() {
                    return None;
                }
                // The sender lives as long as this.
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(patience, waiting).await.ok().flatten()
    }

    /// Tells the guest what time it is: its clock stood still.
    pub(super) async fn set_time(&self) {
        let Some(agent) = self.all().into_iter().find(|agent| agent.can(Feature::Time)) else {
            return;
        };
        let request = SetTimeRequest { unix_nanoseconds: unix_nanoseconds() };
        match tokio::time::timeout(CALL_PATIENCE, agent.client().set_time(request)).await {
            Ok(Ok(reply)) => {
                let moved = reply.into_inner().moved;
                tracing::info!(vm = self.desk.vm, moved, "the guest's clock is set");
            }
            Ok(Err(status)) => {
                let problem = problem(status);
                tracing::warn!(vm = self.desk.vm, %problem, "the guest's clock is not set");
            }
            Err(_) => tracing::warn!(vm = self.desk.vm, "the guest's agent does not answer"),
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.end();
    }
}

/// A channel whose calls reach nobody.
#[cfg(test)]
fn nowhere() -> Channel {
    let opening = std::pin::pin!(channel(tokio::io::duplex(1 << 10).0));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Ok((channel, _))) = opening.poll(&mut context) else {
        panic!("nothing is waited for");
    };
    channel
}

impl Agent {
    /// One whose calls reach nobody.
    #[cfg(test)]
    pub(super) fn to_nowhere(role: Role, facts: Facts) -> Self {
        Self { role, facts, number: 0, channel: nowhere() }
    }

    pub(super) fn can(&self, feature: Feature) -> bool {
        self.facts.features.contains(&feature)
    }

    pub(super) fn client(&self) -> GuestClient<Channel> {
        GuestClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

impl Entry {
    fn agent(&self, role: Role) -> Option<Agent> {
        let (number, channel) = self.serves.clone()?;
        Some(Agent { role, facts: self.calls.clone()?, number, channel })
    }
}

/// The host's time as it travels.
pub(super) fn unix_nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What a guest's refusal means to a client of the daemon.
pub(super) fn problem(status: tonic::Status) -> Problem {
    use tonic::Code;
    let kind = match status.code() {
        Code::InvalidArgument => Kind::Usage,
        Code::NotFound => Kind::Failed,
        Code::FailedPrecondition | Code::PermissionDenied => Kind::Refused,
        Code::DeadlineExceeded => Kind::TimedOut,
        _ => Kind::Failed,
    };
    // A status with a source was made on this side: no answer came.
    if std::error::Error::source(&status).is_some() {
        return Problem::failed("the guest's agent went away before it answered");
    }
    let message = Untrusted::new(status.message().to_owned()).shown(MESSAGE);
    Problem::new(kind, format!("the guest answered: {message}"))
}

impl Desk {
    fn agents(&self) -> MutexGuard<'_, Table> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = {
            let mut agents = self.agents();
            agents.over = true;
            std::mem::take(&mut agents.entries)
        };
        for (role, entry) in entries {
            if entry.known || entry.heard {
                self.audience.left(role);
            }
            if let Some((_, answered)) = entry.answered {
                answered.abort();
            }
        }
        self.changed.send_replace(());
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        let mut strangers = VecDeque::new();
        for number in 0.. {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let hearing = tokio::spawn(Self::hear(Arc::downgrade(&self), stream, number));
                    strangers.push_back(hearing.abort_handle());
                }
                Err(error) => {
                    self.warn(&format!("cannot accept an agent: {error}"));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            // Those that only hold the line give way to those that come.
            if strangers.len() > MOST_STRANGERS
                && let Some(oldest) = strangers.pop_front()
            {
                oldest.abort();
            }
        }
    }

    /// Hears who it is.
    async fn hear(desk: Weak<Self>, mut stream: UnixStream, number: u64) {
        let Some(token) = desk.upgrade().map(|desk| desk.token.clone()) else {
            return;
        };
        match receive(&mut stream, &token).await {
            Ok(hello) => {
                if let Some(desk) = desk.upgrade() {
                    tokio::spawn(desk.welcome(stream, hello.role, hello.direction, number));
                }
            }
            Err(refusal) => {
                let refusal = Untrusted::new(refusal.to_string()).shown(MESSAGE);
                if let Some(desk) = desk.upgrade() {
                    desk.warn(&format!("a program of the guest is turned away: {refusal}"));
                }
            }
        }
    }

    /// Takes a connection into use until it ends.
    async fn welcome(
        self: Arc<Self>,
        mut stream: UnixStream,
        role: Role,
        direction: Direction,
        number: u64,
    ) {
        if let Direction::Share { .. } = direction {
            // Each share has a port of its own.
            self.warn(&format!("{role}: no folder is shared at the agents' port"));
            return;
        }
        if let Direction::Windows = direction {
            self.show(stream, role).await;
            return;
        }
        if !self.make_room(role) {
            self.warn(&format!("{role}: more agents than {MOST_AGENTS}: turned away"));
            return;
        }
        if admit(&mut stream).await.is_err() {
            return;
        }
        match direction {
            Direction::Calls => self.answer(stream, role, number).await,
            Direction::Serves => match channel(stream).await {
                Ok((channel, gone)) => self.call(channel, gone, role, number).await,
                Err(error) => self.warn(&format!("{role}: an agent is lost: {error}")),
            },
            Direction::Windows | Direction::Share { .. } => {}
        }
    }

    /// Has the windows that an agent will tell of shown.
    async fn show(&self, mut stream: UnixStream, role: Role) {
        let Role::User(user) = role else {
            self.warn(&format!("{role}: only a session has windows"));
            return;
        };
        let windows = &self.integration.windows;
        let shown = match windows.place().await {
            Ok(place) => match admit(&mut stream).await {
                Ok(()) => windows.show(place, stream, user).await,
                // It has gone again.
                Err(_) => return,
            },
            Err(problem) => Err(problem),
        };
        if let Err(problem) = shown {
            self.warn(&format!("{role}: its windows are not shown: {problem}"));
        }
    }

    /// Whether another agent, or another connection of one, may come.
    fn make_room(&self, role: Role) -> bool {
        let entries = &mut self.agents().entries;
        entries.retain(|_, entry| {
            let connected = entry.serves.is_some() || entry.answered.is_some();
            connected || entry.known || entry.heard
        });
        entries.contains_key(&role) || entries.len() < MOST_AGENTS
    }

    /// Keeps the way to an agent. A newer one takes the place of an older.
    async fn call(self: Arc<Self>, channel: Channel, mut gone: Gone, role: Role, number: u64) {
        {
            let mut agents = self.agents();
            if agents.over {
                return;
            }
            agents.entries.entry(role).or_default().serves = Some((number, channel));
        }
        self.changed(role);
        // The channel, and with it the connection, lives in the table alone.
        let desk = Arc::downgrade(&self);
        drop(self);
        gone.wait().await;
        if let Some(desk) = desk.upgrade() {
            let mut agents = desk.agents();
            if let Some(entry) = agents.entries.get_mut(&role)
                && entry.serves.as_ref().is_some_and(|(held, _)| *held == number)
            {
                entry.serves = None;
                drop(agents);
                desk.changed(role);
            }
        }
    }

    /// Answers an agent's calls. A newer connection takes the place of an older.
    async fn answer(self: Arc<Self>, stream: UnixStream, role: Role, number: u64) {
        let service = HostServer::new(FromGuest::new(Arc::downgrade(&self), role, number))
            .max_decoding_message_size(MAX_MESSAGE);
        let serving = tokio::spawn(serve(stream, service));
        let answered = Some((number, serving.abort_handle()));
        let before = {
            let mut agents = self.agents();
            if agents.over {
                serving.abort();
                return;
            }
            let entry = agents.entries.entry(role).or_default();
            // What the one before has said of itself goes with it.
            entry.calls = None;
            std::mem::replace(&mut entry.answered, answered)
        };
        if let Some((_, before)) = before {
            before.abort();
            self.changed(role);
        }
        let desk = Arc::downgrade(&self);
        drop(self);
        // It ends as it may: that it has ended is what counts.
        let _ = serving.await;
        if let Some(desk) = desk.upgrade() {
            let mut agents = desk.agents();
            if let Some(entry) = agents.entries.get_mut(&role)
                && entry.answered.as_ref().is_some_and(|(held, _)| *held == number)
            {
                (entry.answered, entry.calls) = (None, None);
                drop(agents);
                desk.changed(role);
            }
        }
    }

    /// An agent has said what it is. False when it had said so before.
    fn ready(&self, role: Role, number: u64, facts: Facts) -> bool {
        let mut agents = self.agents();
        // One of an older connection comes too late.
        if let Some(entry) = agents.entries.get_mut(&role)
            && entry.answered.as_ref().is_some_and(|(held, _)| *held == number)
        {
            if entry.calls.is_some() {
                return false;
            }
            entry.calls = Some(facts);
            drop(agents);
            self.changed(role);
        }
        true
    }

    /// Whether the agent that calls on this connection has said what it is.
    fn is_ready(&self, role: Role, number: u64) -> bool {
        self.agents().entries.get(&role).is_some_and(|entry| {
            entry.calls.is_some()
                && entry.answered.as_ref().is_some_and(|(held, _)| *held == number)
        })
    }

    /// A line about something that a guest can repeat.
    fn warn(&self, what: &str) {
        if let Some(kept) = self.lines.due() {
            tracing::warn!(vm = self.vm, kept, "{what}");
        }
    }

    fn changed(&self, role: Role) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let (there, came, left) = {
            let mut agents = self.agents();
            let Some(entry) = agents.entries.get_mut(&role) else {
                return;
            };
            let agent = entry.agent(role);
            // One of another protocol has nothing for the desktop.
            let known = agent.clone().filter(|agent| !agent.facts.foreign);
            let knew = std::mem::replace(&mut entry.known, known.is_some());
            let ready = entry.calls.is_some();
            let heard = std::mem::replace(&mut entry.heard, ready);
            (agent.is_some(), known, knew || heard && !ready)
        };
        // One that comes anew is told of as gone first: what was agreed with it is gone.
        if left {
            self.audience.left(role);
        }
        if let Some(agent) = &came {
            self.audience.came(agent);
        }
        if let Some(kept) = self.lines.due() {
            tracing::info!(vm = self.vm, %role, there, kept, "agent");
        }
        self.changed.send_replace(());
    }
}

/// An agent as a client of the daemon sees it.
impl From<Agent> for v1::Agent {
    fn from(agent: Agent) -> Self {
        Self {
            update: update::offer(&agent).unwrap_or_default(),
            user: agent.facts.user,
            program: agent.facts.program,
            system: agent.facts.system,
        }
    }
}

#[cfg(test)]
mod tests;

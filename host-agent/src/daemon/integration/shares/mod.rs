//! Folders shared with a VM: the processes that serve them, and what its agent is told of them.
//!
//! A share is in the definition: as a device of the machine, which is there for a whole run, or live, by a
//! process of its own ([`served`]). Single files are opened through portals ([`portal`]), which go with the
//! run. While the VM runs one task ([`keeper`]) brings processes and the guest's mounts to what is wanted.

mod keeper;
mod portal;
mod record;
mod served;
mod told;

use super::About;
use crate::daemon::agents::Agent;
use crate::problem::{Kind, Problem};
use agent_link::Role;
use definition::toml_edit::DocumentMut;
use definition::{AgentWay, Share, ShareKind, add_share, remove_share};
use proto::v1::{
    AddShareRequest, Feature, SetSharesRequest, SharedFolder, SharedPath, SharesReply,
};
use record::{Files, Wanted};
use served::Served;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Users whose files these may be: people's (Debian's `/etc/adduser.conf` and systemd's UIDS-GIDS).
const USERS: std::ops::RangeInclusive<u32> = 1000..=60000;
/// How long a change may take to reach the guest before its client is answered all the same.
const PATIENCE: Duration = Duration::from_secs(30);
/// Users whose mounts stay after their session.
const MOST_USERS: usize = 16;
/// How long after the system agent's coming none but it may be there: sessions come back a moment later, and
/// their mounts need not go in between.
const SESSIONS_PATIENCE: Duration = Duration::from_secs(15);
/// The longest tag.
const LONGEST_TAG: usize = 31;

/// What a guest may do with a file that is opened for it alone. A share that it lies under has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Rights {
    /// Nothing: only where it lies under a share that the guest has.
    AsShared,
    /// Read it.
    Read,
    /// What the host's user can.
    AsTheHost,
}

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Shares {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    about: Arc<About>,
    state: Mutex<State>,
    /// Counts what asked for a pass of the keeper, and what its last pass has seen of that.
    asked: watch::Sender<u64>,
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the run that there is.
    run: Option<u64>,
    runs: u64,
    /// Shares of the definition without and with a device, and the tags of all.
    live: Vec<Wanted>,
    devices: Vec<Share>,
    /// The way of this run's agent.
    agent: AgentWay,
    defined: BTreeSet<String>,
    portals: Vec<Wanted>,
    /// Living processes by tag.
    served: BTreeMap<String, Served>,
    /// Why one is not.
    failures: BTreeMap<String, String>,
    crashes: BTreeMap<String, Vec<Instant>>,
    system: Option<Agent>,
    /// Since when the system agent is there.
    system_since: Option<Instant>,
    /// Users in session, with their names.
    sessions: BTreeMap<u32, String>,
    /// Users who were in session in this run: what is mounted for them stays, for an agent may be killed and
    /// come back while a program has a file open.
    users: BTreeSet<u32>,
    /// What the system agent knows, and what it could not mount.
    told: Option<SetSharesRequest>,
    problems: told::Problems,
    /// Why it knows nothing.
    unanswered: Option<String>,
    /// Shares by device that the guest could not mount, with the reason: they are served live as well, until the
    /// end of the run.
    fallen: BTreeMap<String, String>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a pass of the keeper; which.
    fn ask(&self) -> u64 {
        self.asked.send_modify(|asked| *asked += 1);
        *self.asked.borrow()
    }

    /// Waits until the keeper has seen what was asked for.
    async fn settle(&self) {
        let number = self.ask();
        if self.state().run.is_none() {
            return;
        }
        let mut done = self.done.subscribe();
        let seen = done.wait_for(|done| *done >= number);
        let _ = tokio::time::timeout(PATIENCE, seen).await;
    }
}

impl Shares {
    pub(in crate::daemon) fn new(about: Arc<About>) -> Self {
        Self {
            inner: Arc::new(Inner {
                about,
                state: Mutex::default(),
                asked: watch::channel(0).0,
                done: watch::channel(0).0,
            }),
        }
    }

    pub(in crate::daemon) fn came(&self, agent: &Agent) {
        let mut state = self.inner.state();
        match agent.role {
            Role::System if agent.can(Feature::Shares) => {
                state.system = Some(agent.clone());
                state.system_since = Some(Instant::now());
                state.told = None;
                state.problems.clear();
            }
            Role::System => state.system = None,
            Role::User(user) if USERS.contains(&user) => {
                state.sessions.insert(user, agent.facts.user.clone());
                if state.users.len() < MOST_USERS {
                    state.users.insert(user);
                }
            }
            // A service account has no home to find shares in.
            Role::User(_) => return,
        }
        drop(state);
        self.inner.ask();
    }

    pub(in crate::daemon) fn left(&self, role: Role) {
        let mut state = self.inner.state();
        match role {
            Role::System => {
                state.system = None;
                state.told = None;
            }
            Role::User(user) => {
                state.sessions.remove(&user);
            }
        }
        drop(state);
        self.inner.ask();
    }

    pub(in crate::daemon) fn started(&self) {
        let run = {
            let mut state = self.inner.state();
            state.runs += 1;
            *state = State { runs: state.runs, run: Some(state.runs), ..State::default() };
            state.runs
        };
        tokio::spawn(keeper::keep(Arc::clone(&self.inner), run));
    }

    pub(in crate::daemon) fn ended(&self) {
        let mut state = self.inner.state();
        // Their processes have seen the same end.
        *state = State { runs: state.runs, ..State::default() };
        drop(state);
        Files::new(&self.inner.about).forget_all();
        self.inner.ask();
    }

    pub(in crate::daemon) fn changed(&self) {
        self.inner.ask();
    }

    pub(in crate::daemon) fn deleted(&self) {
        Files::new(&self.inner.about).forget_all();
    }

    pub(in crate::daemon) async fn add(
        &self,
        request: AddShareRequest,
    ) -> Result<SharesReply, Problem> {
        let path = PathBuf::from(OsString::from_vec(request.path));
        if path.is_file() {
            if !request.tag.is_empty() || request.read_only {
                let message = format!("{} is a file, which is opened as it is", path.display());
                return Err(Problem::usage(message)
                    .advise("leave --tag and --read-only out, or share the folder it is in"));
            }
            self.reach(&path, Rights::AsTheHost).await?;
            return Ok(self.list());
        }
        let tag = if request.tag.is_empty() { tag_of(&path) } else { request.tag };
        let taken = self.inner.state().portals.iter().any(|portal| portal.tag == tag);
        if taken {
            return Err(Problem::usage(format!("the tag {tag:?} is that of an opened file"))
                .advise("give another with --tag"));
        }
        let read_only = request.read_only;
        let share = Share { tag, path, kind: ShareKind::Vsock, read_only };
        let inner = Arc::clone(&self.inner);
        let checked = share.path.clone();
        let check = move || check_folder(&inner, &checked);
        self.edit(check, move |document| add_share(document, &share)).await?;
        self.inner.settle().await;
        Ok(self.list())
    }

    pub(in crate::daemon) async fn remove(&self, tag: &str) -> Result<SharesReply, Problem> {
        let portals = {
            let mut state = self.inner.state();
            let before = state.portals.len();
            state.portals.retain(|portal| portal.tag != tag);
            before - state.portals.len()
        };
        if portals == 0 {
            let (inner, wanted) = (Arc::clone(&self.inner), tag.to_owned());
            let check = move || {
                let definition = inner.about.store.load(&inner.about.vm)?;
                if definition.shares.iter().any(|share| share.tag == wanted) {
                    return Ok(());
                }
                let message = format!("VM {:?} has no share {wanted:?}", inner.about.vm);
                Err(Problem::new(Kind::Unknown, message).advise("`share list` shows them"))
            };
            let tag = tag.to_owned();
            self.edit(check, move |document| remove_share(document, &tag)).await?;
        }
        self.inner.settle().await;
        Ok(self.list())
    }

    /// Changes the definition's text, if `check` finds nothing against it.
    async fn edit(
        &self,
        check: impl FnOnce() -> Result<(), Problem> + Send + 'static,
        change: impl FnOnce(&mut DocumentMut) + Send + 'static,
    ) -> Result<(), Problem> {
        let inner = Arc::clone(&self.inner);
        let edited = tokio::task::spawn_blocking(move || {
            check()?;
            inner.about.store.change(&inner.about.vm, change)?;
            Ok(())
        });
        edited.await.map_err(Problem::failed)?
    }

    pub(in crate::daemon) fn list(&self) -> SharesReply {
        let definition = self.inner.about.definition();
        let state = self.inner.state();
        let running = state.run.is_some();
        let mut shares = Vec::new();
        let folder = |tag: &str, path: &Path, read_only| SharedFolder {
            tag: tag.to_owned(),
            path: path.as_os_str().as_bytes().to_vec(),
            read_only,
            ..SharedFolder::default()
        };
        let agent = match &definition {
            Some(definition) if !running => definition.agent,
            _ => state.agent,
        };
        let way = |kind| match (kind, agent) {
            (ShareKind::Plan9, _) => "9p",
            (ShareKind::VirtioFs, _) => "virtio-fs",
            (ShareKind::Vsock, AgentWay::Vsock) => "9p-vsock",
            (ShareKind::Vsock, AgentWay::Serial) => "9p-serial",
        };
        let defined = definition.map(|definition| definition.shares).unwrap_or_default();
        let attached = |tag: &str| state.devices.iter().find(|share| share.tag == tag);
        for share in &defined {
            // What runs is what counts, whatever the definition has become.
            let shown = attached(&share.tag).unwrap_or(share);
            let text = match running {
                false => String::new(),
                true if shown.kind.has_device() && attached(&share.tag).is_none() => {
                    "at the VM's next start".to_owned()
                }
                true => state.describe(&share.tag),
            };
            let fallen = running && state.fallen.contains_key(&shown.tag);
            let kind = if fallen { ShareKind::Vsock } else { shown.kind };
            shares.push(SharedFolder {
                way: way(kind).to_owned(),
                state: text,
                ..folder(&shown.tag, &shown.path, shown.read_only)
            });
        }
        for share in &state.devices {
            if !defined.iter().any(|other| other.tag == share.tag) {
                let text = format!("{}; goes at the VM's end", state.describe(&share.tag));
                shares.push(SharedFolder {
                    way: way(share.kind).to_owned(),
                    state: text,
                    ..folder(&share.tag, &share.path, share.read_only)
                });
            }
        }
        for portal in &state.portals {
            shares.push(SharedFolder {
                way: way(ShareKind::Vsock).to_owned(),
                portal: true,
                state: state.describe(&portal.tag),
                ..folder(&portal.tag, &portal.folder, portal.read_only)
            });
        }
        SharesReply { shares }
    }

    /// Where the guest finds a file of the host: under a share, else through a portal made for it, which is
    /// mounted when this answers.
    pub(in crate::daemon) async fn reach(
        &self,
        file: &Path,
        rights: Rights,
    ) -> Result<SharedPath, Problem> {
        let inner = &self.inner;
        if inner.state().run.is_none() {
            let message = format!("VM {:?} does not run", inner.about.vm);
            return Err(Problem::new(Kind::Refused, message).advise("start it first"));
        }
        let (looking, path) = (Arc::clone(inner), file.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let found = portal::find(&looking, &path, rights)?;
            let open = portal::open_folders(&looking.state());
            let under = portal::under_share(open, &found);
            Ok::<_, Problem>((found, under))
        });
        let (found, under) = found.await.map_err(Problem::failed)??;
        let shared = match under {
            Some(shared) => shared,
            None if rights == Rights::AsShared => {
                let message = format!("{} is in no folder that the guest has", file.display());
                return Err(Problem::new(Kind::Refused, message));
            }
            None => portal::open(inner, &found).await?,
        };
        inner.settle().await;
        match inner.state().not_mounted(&shared.tag) {
            None => Ok(shared),
            Some(reason) => {
                let message = format!("the guest does not see {}: {reason}", file.display());
                Err(Problem::failed(message))
            }
        }
    }
}

impl State {
    /// Those for whom there are mounts.
    fn all_users(&self) -> BTreeSet<u32> {
        self.sessions.keys().chain(&self.users).copied().collect()
    }

    /// The sessions of the guest may be about to come.
    fn is_early(&self) -> bool {
        let since = self.system_since.is_some_and(|since| since.elapsed() < SESSIONS_PATIENCE);
        since && self.all_users().is_empty()
    }

    /// Why no user of the guest has this share; none when one has.
    fn not_mounted(&self, tag: &str) -> Option<String> {
        if let Some(failure) = self.failures.get(tag) {
            return Some(failure.clone());
        }
        let is_device =
            self.devices.iter().any(|share| share.tag == tag) && !self.fallen.contains_key(tag);
        if !is_device && !self.served.contains_key(tag) {
            return Some("it is about to be shared".to_owned());
        }
        if self.system.is_none() {
            return Some("the guest has no agent that mounts it".to_owned());
        }
        if self.sessions.is_empty() {
            return Some("no user of the guest is in session".to_owned());
        }
        if let Some(reason) = &self.unanswered {
            return Some(reason.clone());
        }
        let told = |user: u32| {
            let shares = self.told.iter().flat_map(|told| &told.shares);
            shares.filter(|share| share.user == user).any(|share| share.tag == tag)
        };
        let mut reasons =
            self.sessions.keys().map(|user| match self.problems.get(&(tag.to_owned(), *user)) {
                Some(reason) => Some(reason.clone()),
                None if told(*user) => None,
                None if self
                    .told
                    .as_ref()
                    .is_some_and(|told| told.shares.len() >= told::MOST_SHARES) =>
                {
                    let most = told::MOST_SHARES;
                    Some(format!("all users together have more than {most} shares; remove some"))
                }
                None => Some("the guest is about to mount it".to_owned()),
            });
        let first = reasons.next()?;
        if reasons.any(|reason| reason.is_none()) { None } else { first }
    }

    /// For a person.
    fn describe(&self, tag: &str) -> String {
        if let Some(reason) = self.not_mounted(tag) {
            return format!("not mounted: {reason}");
        }
        let mut text = String::new();
        for (user, name) in &self.sessions {
            let part = match self.problems.get(&(tag.to_owned(), *user)) {
                Some(reason) => format!("not mounted for {name}: {reason}"),
                None => format!("mounted at ~/Host/{tag} for {name}"),
            };
            text = if text.is_empty() { part } else { format!("{text}; {part}") };
        }
        if let Some(reason) = self.fallen.get(tag) {
            text = format!("{text}; not by its device: {reason}");
        }
        text
    }
}

/// The folder's name, with what a tag may not contain replaced.
fn tag_of(folder: &Path) -> String {
    let name = folder.file_name().map_or("root".into(), |name| name.to_string_lossy());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let tag: String =
        name.chars().take(LONGEST_TAG).map(|c| if allowed(c) { c } else { '_' }).collect();
    if tag.starts_with('.') { tag.replacen('.', "_", 1) } else { tag }
}

/// A folder that may be shared. Blocks.
fn check_folder(inner: &Inner, path: &Path) -> Result<(), Problem> {
    if path.to_str().is_none() {
        return Err(Problem::usage(format!("{path:?} is not text, as a definition has it")));
    }
    let facts = path.metadata();
    let facts = facts.map_err(|error| {
        Problem::failed(format!("{} cannot be shared: {error}", path.display()))
    })?;
    if !facts.is_dir() {
        let message = format!("{} is neither a file nor a folder", path.display());
        return Err(Problem::failed(message));
    }
    let resolved = path.canonicalize().map_err(Problem::failed)?;
    portal::refuse_own(inner, &resolved)
}

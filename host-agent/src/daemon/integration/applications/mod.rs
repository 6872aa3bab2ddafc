//! The applications of a VM: the lists its agents tell, checked, and the launchers made from them.
//!
//! A list that is taken is told at once to whoever asks, and kept on disk for the time in which the VM does not
//! run. Launchers and icons follow in a task of their own ([`publish`]), at most once in a second, so that
//! a guest that changes its mind all the time costs no more than that.

mod icons;
mod publish;
mod told;

pub(in crate::daemon) use publish::sweep;

use super::About;
use crate::daemon::agents::Agent;
use crate::daemon::exec::PEOPLE;
use crate::launchers::folder::Folder;
use crate::launchers::list::check;
use crate::problem::Problem;
use crate::untrusted::Untrusted;
use agent_link::Role;
use proto::v1::{Application, ApplicationList, ApplicationsReply, Feature, ResyncRequest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use told::{Pace, Paced, Told, merge};
use tonic::Status;

/// Lists of one VM in a minute.
const MOST_LISTS: u32 = 120;
/// How long an agent may take to tell everything again.
const RESYNC_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Applications {
    shared: Arc<Shared>,
}

/// What outlives a call: the task that publishes holds it, too.
#[derive(Debug)]
struct Shared {
    about: Arc<About>,
    folder: Folder,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// What was kept on disk has been read.
    recalled: bool,
    /// The lists of agents that are connected.
    lists: BTreeMap<Role, Told>,
    /// All of them together, or as they were last; sorted by id.
    merged: Vec<Application>,
    /// It is not on disk yet.
    unsaved: bool,
    /// Sessions' agents that have applications.
    agents: BTreeMap<Role, Agent>,
    pace: Pace<MOST_LISTS>,
    icon_pace: Pace<{ icons::MOST_FETCHED }>,
    work: Work,
    /// Icons that could not be had, by their number: not asked for again.
    failed: BTreeMap<String, u64>,
    /// The VM is gone for good.
    deleted: bool,
}

/// The task that publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Idle,
    /// It runs.
    Busy,
    /// It runs, and what it works on has changed.
    Behind,
}

impl Applications {
    pub(in crate::daemon) fn new(about: Arc<About>) -> Self {
        let folder = Folder::of(&about.places);
        Self { shared: Arc::new(Shared { about, folder, held: Mutex::default() }) }
    }

    pub(in crate::daemon) fn came(&self, agent: &Agent) {
        if is_person(agent.role) && agent.can(Feature::Applications) {
            let mut held = self.shared.held();
            held.agents.insert(agent.role, agent.clone());
            held.failed.clear();
            drop(held);
            // Icons can be had now.
            self.shared.publish();
        }
    }

    pub(in crate::daemon) fn left(&self, role: Role) {
        let mut held = self.shared.held();
        held.agents.remove(&role);
        // What it told stands in the merged list until another agent tells.
        held.lists.remove(&role);
    }

    pub(in crate::daemon) fn changed(&self) {
        self.shared.publish();
    }

    pub(in crate::daemon) fn deleted(&self) {
        self.shared.held().deleted = true;
        self.shared.publish();
    }

    /// What an agent says there is.
    pub(in crate::daemon) fn set(&self, role: Role, list: ApplicationList) -> Result<(), Status> {
        if !is_person(role) {
            return Err(Status::failed_precondition("only a person's session has applications"));
        }
        let vm = &self.shared.about.vm;
        let paced = self.shared.held().pace.take(Instant::now());
        match paced {
            Paced::Go { refused: 0 } => {}
            Paced::Go { refused } => {
                tracing::warn!(vm, refused, "lists of applications were too many")
            }
            Paced::First { until } => {
                tracing::warn!(vm, %role, "lists of applications come too fast: refused for a while");
                tokio::spawn(ask_again(Arc::clone(&self.shared), role, until));
                return Err(too_fast());
            }
            Paced::Stop => return Err(too_fast()),
        }
        let generation = list.generation;
        let checked = check(Untrusted::new(list)).map_err(|problem| {
            tracing::warn!(vm, %role, generation, %problem, "a list of applications is refused");
            Status::invalid_argument(problem.to_string())
        })?;
        let told = Told::new(checked.applications);
        let left_out: usize = checked.left_out.values().sum();
        let mut held = self.shared.held();
        if held.lists.get(&role).is_some_and(|before| before.digest == told.digest) {
            return Ok(());
        }
        let count = told.applications.len();
        tracing::info!(vm, %role, generation, count, left_out, reasons = ?checked.left_out, "applications");
        self.shared.recall(&mut held);
        let Held { lists, agents, .. } = &mut *held;
        // A list may come before its agent's other connection; one that never does is given up.
        if !lists.contains_key(&role) && lists.len() > agents.len() {
            lists.retain(|role, _| agents.contains_key(role));
        }
        lists.insert(role, told);
        let merged = merge(lists.values());
        if merged != held.merged {
            held.merged = merged;
            held.unsaved = true;
            drop(held);
            self.shared.publish();
        }
        Ok(())
    }

    pub(in crate::daemon) fn list(&self) -> Result<ApplicationsReply, Problem> {
        let mut held = self.shared.held();
        self.shared.recall(&mut held);
        Ok(ApplicationsReply {
            applications: held.merged.clone(),
            remembered: held.lists.is_empty(),
        })
    }

    /// What is known of an application, now or from an earlier run.
    pub(in crate::daemon) fn find(&self, id: &str) -> Option<Application> {
        let mut held = self.shared.held();
        self.shared.recall(&mut held);
        let place = held.merged.binary_search_by(|application| application.id.as_str().cmp(id));
        place.ok().and_then(|place| held.merged.get(place)).cloned()
    }

    /// Whether the agent `role`, which is connected, has told of an application.
    pub(in crate::daemon) fn has(&self, role: Role, id: &str) -> bool {
        self.shared.held().lists.get(&role).is_some_and(|told| told.has(id))
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Services have agents of no use here.
pub(in crate::daemon) fn is_person(role: Role) -> bool {
    matches!(role, Role::User(number) if PEOPLE.contains(&number))
}

fn too_fast() -> Status {
    Status::resource_exhausted("lists of applications come too fast")
}

/// The last of too many lists counts in the end.
async fn ask_again(shared: Arc<Shared>, role: Role, until: Instant) {
    tokio::time::sleep_until(until.into()).await;
    let agent = shared.held().agents.get(&role).cloned();
    if let Some(agent) = agent {
        // One that does not answer tells again when it has something new.
        let _ =
            tokio::time::timeout(RESYNC_PATIENCE, agent.client().resync(ResyncRequest {})).await;
    }
}

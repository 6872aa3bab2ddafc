//! All VMs of the user: definitions on disk joined with what runs.

use super::agents::Agent;
use super::desktop::Desktop;
use super::integration::applications::sweep;
use super::records::launched_in;
use super::vm::Vm;
use crate::engines;
use crate::lifecycle::{Action, VmState};
use crate::problem::{Kind, Problem};
use definition::{Places, Store, VmDefinition, check_name};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

/// Events a slow watcher may fall behind before it loses the oldest.
const EVENT_BACKLOG: usize = 256;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Vms {
    places: Places,
    store: Store,
    desktop: Arc<Desktop>,
    known: Arc<Mutex<BTreeMap<String, Arc<Vm>>>>,
    events: broadcast::Sender<v1::Event>,
    guests: Handle,
    /// Says that definitions came, went or changed.
    edits: watch::Sender<()>,
}

impl Vms {
    /// Guests are heard on the threads of `guests`.
    pub(super) fn new(places: Places, guests: Handle) -> Self {
        Self {
            store: Store::new(places.definitions()),
            desktop: Arc::default(),
            known: Arc::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            places,
            guests,
            edits: watch::channel(()).0,
        }
    }

    /// Where tasks run that do nothing but talk with guests.
    pub(super) fn guests(&self) -> &Handle {
        &self.guests
    }

    pub(super) fn events(&self) -> broadcast::Receiver<v1::Event> {
        self.events.subscribe()
    }

    /// A definition was made, changed or removed.
    pub(super) fn edited(&self) {
        self.edits.send_replace(());
    }

    /// Tells when this daemon has made, changed or removed a definition.
    pub(super) fn definitions(&self) -> watch::Receiver<()> {
        self.edits.subscribe()
    }

    /// Tells when a VM has become one with windows, or shows them otherwise.
    pub(super) fn windows_changed(&self) -> watch::Receiver<()> {
        self.desktop.windows.subscribe()
    }

    /// The host's desktop.
    pub(super) fn desktop(&self) -> &Desktop {
        &self.desktop
    }

    /// Every VM that this daemon has had to do with: all that run, and more.
    pub(super) fn known(&self) -> Vec<(String, Arc<Vm>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, vm)| (name.clone(), Arc::clone(vm))).collect()
    }

    /// Every VM that is defined or runs, and where it stands.
    pub(super) async fn states(&self) -> Result<BTreeMap<String, VmState>, Problem> {
        let mut names: BTreeSet<String> = self.store.names()?.into_iter().collect();
        names.extend(self.running_folders());
        let mut looks = JoinSet::new();
        for name in names {
            let vm = self.vm(&name);
            let defined = self.store.text(&name).is_ok();
            looks.spawn(async move { (name, vm.look().await.state, defined) });
        }
        let mut states = BTreeMap::new();
        while let Some(looked) = looks.join_next().await {
            let (name, state, defined) = looked.map_err(Problem::failed)?;
            if defined || state.is_active() {
                states.insert(name, state);
            }
        }
        Ok(states)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Finds the VM processes that an earlier daemon left running, also those whose definition is
    /// gone.
    pub(super) async fn adopt_all(&self) {
        for name in self.running_folders() {
            let vm = self.vm(&name);
            if vm.adopt() {
                let state = vm.look().await.state;
                tracing::info!(vm = name, %state, "found running");
            } else {
                vm.integration().windows.sweep();
            }
        }
        self.tidy_launchers();
    }

    /// Has launchers be what they should, whatever an earlier daemon left and a person changed since.
    fn tidy_launchers(&self) {
        // Without the names of all VMs none is known to be gone.
        let Ok(names) = self.store.names() else {
            return;
        };
        let known: BTreeSet<String> = names.into_iter().chain(self.running_folders()).collect();
        for name in &known {
            self.vm(name).integration().applications.changed();
        }
        let places = self.places.clone();
        tokio::spawn(async move { sweep(&places, known).await });
    }

    /// Names of the VMs that have a runtime folder.
    fn running_folders(&self) -> Vec<String> {
        let Ok(folders) = std::fs::read_dir(self.places.vm_runtimes()) else {
            return Vec::new();
        };
        folders
            .filter_map(|folder| launched_in(&folder.ok()?.path()))
            .map(|spec| spec.definition.name)
            .filter(|name| check_name(name).is_ok())
            .collect()
    }

    /// The VM of this name, whether or not it is defined.
    fn vm(&self, name: &str) -> Arc<Vm> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = known.entry(name.to_owned()).or_insert_with(|| {
            let (events, guests) = (self.events.clone(), self.guests.clone());
            Vm::new(name, &self.places, &self.store, &self.desktop, events, guests)
        });
        Arc::clone(vm)
    }

    /// Tells the guests that run what time it is. They may take their time with it.
    pub(super) fn tell_time(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for agents in known.values().filter_map(|vm| vm.agents()) {
            tokio::spawn(async move { agents.set_time().await });
        }
    }

    /// The VM of this name, which is defined or runs.
    pub(super) async fn get(&self, name: &str) -> Result<Arc<Vm>, Problem> {
        let defined = self.store.text(name);
        match defined {
            Ok(_) => Ok(self.vm(name)),
            Err(definition::StoreError::Unknown { .. }) => {
                let vm = self.vm(name);
                if vm.look().await.state.is_active() {
                    return Ok(vm);
                }
                self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                Err(self.unknown(name))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What `found` finds among the agents of a VM that runs, when it does within `patience`.
    pub(super) async fn wait_for_agent<T>(
        &self,
        name: &str,
        patience: Duration,
        found: impl Fn(&[Agent]) -> Option<T>,
    ) -> Result<T, Problem> {
        let vm = self.get(name).await?;
        vm.look().await.state.check(name, Action::Attach)?;
        let missing = || {
            Problem::new(Kind::Unavailable, format!("no agent of VM \"{name}\" is connected"))
                .advise(
                    "the guest may still start (--wait waits for it), or the agent is not installed there",
                )
        };
        let agents = vm.agents().ok_or_else(missing)?;
        agents.wait_for(patience, found).await.ok_or_else(missing)
    }

    fn unknown(&self, name: &str) -> Problem {
        let close = self.store.names().ok().and_then(|names| {
            names.into_iter().find(|other| other.to_lowercase() == name.to_lowercase())
        });
        let problem = Problem::new(Kind::Unknown, format!("there is no VM \"{name}\""));
        match close {
            Some(close) => problem.advise(format!("there is one called \"{close}\"")),
            None => problem.advise("`list --all` shows the VMs there are"),
        }
    }

    pub(super) async fn describe(&self, name: &str) -> Result<v1::Vm, Problem> {
        let vm = self.get(name).await?;
        let definition = self.store.load(name);
        // A definition that became nonsense hides nothing about a run.
        let described = vm.describe(definition.as_ref().ok()).await;
        match definition {
            Err(error) if described.pid == 0 => Err(error.into()),
            _ => Ok(described),
        }
    }

    pub(super) async fn list(&self, all: bool) -> Result<v1::ListReply, Problem> {
        let mut names: BTreeSet<String> = self.store.names()?.into_iter().collect();
        names.extend(self.running_folders());
        let mut reply = v1::ListReply::default();
        let mut looks = JoinSet::new();
        for name in names {
            let definition = self.store.load(&name);
            let broken = match &definition {
                Err(definition::StoreError::Unknown { .. }) | Ok(_) => None,
                Err(error) => Some(v1::BrokenDefinition {
                    name: name.clone(),
                    path: self
                        .store
                        .path(&name)
                        .map(|path| path.display().to_string())
                        .unwrap_or_default(),
                    message: error.to_string(),
                }),
            };
            let vm = self.vm(&name);
            looks.spawn(async move {
                let described = vm.describe(definition.as_ref().ok()).await;
                (described, broken, definition.is_ok())
            });
        }
        while let Some(looked) = looks.join_next().await {
            let (vm, broken, defined) = looked.map_err(Problem::failed)?;
            reply.broken.extend(broken);
            let active = vm.pid != 0 || vm.state == i32::from(v1::State::Starting);
            if active || (all && defined) {
                reply.vms.push(vm);
            }
        }
        reply.vms.sort_by(|a, b| a.name.cmp(&b.name));
        reply.broken.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reply)
    }

    pub(super) async fn create(&self, text: String) -> Result<VmDefinition, Problem> {
        let store = self.store.clone();
        let created = tokio::task::spawn_blocking(move || {
            let definition = definition::parse(&text).map_err(|error| match error.problem {
                Some(problem) => (*problem).into(),
                None => Problem::from(error),
            })?;
            definition.check_host(&engines::host_facts())?;
            crate::contents::check(&definition)?;
            Ok(store.create(&text)?)
        });
        let created = created.await.map_err(Problem::failed)?;
        self.edited();
        created
    }

    pub(super) fn update(&self, name: &str, text: &str) -> Result<(), Problem> {
        // Files the definition names are checked at the next start: a person may edit before they
        // are there.
        self.store.replace(name, text)?;
        self.vm(name).integration().changed();
        self.edited();
        Ok(())
    }

    pub(super) async fn start(&self, name: &str) -> Result<v1::StartReply, Problem> {
        let vm = self.get(name).await?;
        vm.look().await.state.check(name, Action::Start)?;
        let definition = self.store.load(name)?;
        definition.check_host(&engines::host_facts())?;
        self.check_disks_are_free(&definition).await?;
        let (engine, engine_choice) = engines::choose(definition.engine)?;
        vm.start(definition.clone(), engine).await?;
        Ok(v1::StartReply { vm: Some(vm.describe(Some(&definition)).await), engine_choice })
    }

    /// Refuses a disk that a running VM writes to, or that this one would write to while another
    /// reads it. The VM process locks the file as well; this gives the name of the other VM.
    async fn check_disks_are_free(&self, definition: &VmDefinition) -> Result<(), Problem> {
        let others: Vec<Arc<Vm>> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known
                .iter()
                .filter(|(name, _)| **name != definition.name)
                .map(|(_, vm)| Arc::clone(vm))
                .collect()
        };
        for other in others {
            let Some(launched) = other.records().launched() else {
                continue;
            };
            let shared = definition.disks.iter().enumerate().find(|(_, disk)| {
                launched.disks.iter().any(|theirs| {
                    !(disk.read_only && theirs.read_only) && same_file(&disk.path, &theirs.path)
                })
            });
            if let Some((index, disk)) = shared
                && other.look().await.state.is_active()
            {
                return Err(Problem::failed(format!(
                    "disk[{index}].path is {:?}, which the running VM \"{}\" uses",
                    disk.path, launched.name
                ))
                .advise("stop that VM first, or set read-only = true in both"));
            }
        }
        Ok(())
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Problem> {
        let vm = self.get(name).await?;
        vm.delete(|| Ok(self.store.remove(name)?)).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.edited();
        Ok(())
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

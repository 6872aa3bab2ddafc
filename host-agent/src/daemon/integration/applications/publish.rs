//! Launchers as the list, the definition and the icons have them: one task per VM while there is work.

use super::icons::Numbers;
use super::{Shared, Work};
use crate::launchers::entry::{Entry, is_program};
use crate::launchers::folder::{Done, Folder};
use crate::launchers::names::host_id;
use definition::{Integration, Places, StoreError};
use proto::v1::Application;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// From one round to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the desktop's own program may take to note which types open with what.
const TYPES_PATIENCE: Duration = Duration::from_secs(20);

/// What should stand in the menu.
pub(super) struct Wanted {
    pub(super) applications: Vec<Application>,
    settings: Integration,
}

impl Shared {
    /// Has the launchers be made what they should be, soon.
    pub(super) fn publish(self: &Arc<Self>) {
        let mut held = self.held();
        held.work = match held.work {
            Work::Idle => {
                tokio::spawn(Arc::clone(self).work());
                Work::Busy
            }
            Work::Busy | Work::Behind => Work::Behind,
        };
    }

    /// What the task works on has changed.
    pub(super) fn is_behind(&self) -> bool {
        self.held().work == Work::Behind
    }

    async fn work(self: Arc<Self>) {
        loop {
            let begun = Instant::now();
            self.round().await;
            tokio::time::sleep_until(begun + PAUSE).await;
            let mut held = self.held();
            if held.work == Work::Busy {
                held.work = Work::Idle;
                return;
            }
            held.work = Work::Busy;
        }
    }

    async fn round(self: &Arc<Self>) {
        let Some(wanted) = self.blocking(Self::wanted).await.flatten() else {
            return;
        };
        let wanted = Arc::new(wanted);
        self.write(&wanted).await;
        // Those that come name themselves in the entries.
        if self.fetch_icons(&wanted.applications).await {
            self.write(&wanted).await;
        }
    }

    async fn write(self: &Arc<Self>, wanted: &Arc<Wanted>) {
        let wanted = Arc::clone(wanted);
        let done = self.blocking(move |shared| shared.write_entries(&wanted)).await;
        if done.is_some_and(|done| done.types) {
            note_types(self.folder.entries()).await;
        }
    }

    /// Runs what waits for disks; none when it fails.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&shared)).await.ok()
    }

    /// What should be there; none where that cannot be told.
    fn wanted(&self) -> Option<Wanted> {
        let definition = self.about.store.load(&self.about.vm);
        let mut held = self.held();
        self.recall(&mut held);
        let settings = match definition {
            _ if held.deleted => None,
            Ok(definition) => Some(definition.integration),
            Err(StoreError::Unknown { .. }) => None,
            // A person may be writing it: what stands there stays until it can be read.
            Err(_) => return None,
        };
        let (applications, unsaved) = (held.merged.clone(), std::mem::take(&mut held.unsaved));
        drop(held);
        if unsaved && settings.is_some() {
            self.remember(applications.clone());
        }
        let shown = settings.as_ref().is_some_and(|settings| settings.launchers);
        let applications = if shown { applications } else { Vec::new() };
        Some(Wanted { applications, settings: settings.unwrap_or_default() })
    }

    fn write_entries(&self, wanted: &Wanted) -> Done {
        let vm = self.about.vm.as_str();
        let mut icons = BTreeSet::new();
        let done = self.entries(wanted, &mut icons).and_then(|entries| {
            let done = self.folder.set_entries(vm, &entries)?;
            self.folder.keep_icons(vm, &icons)?;
            Ok(done)
        });
        match done {
            Ok(done) => {
                if done != Done::default() {
                    let Done { written, removed, foreign, .. } = done;
                    tracing::info!(vm, written, removed, foreign, "launchers");
                }
                done
            }
            Err(error) => {
                tracing::warn!(vm, %error, "launchers cannot be written");
                Done::default()
            }
        }
    }

    /// The entries, and into `named` those that have an icon.
    fn entries(
        &self,
        wanted: &Wanted,
        named: &mut BTreeSet<String>,
    ) -> std::io::Result<BTreeMap<String, String>> {
        let vm = self.about.vm.as_str();
        let mut entries = BTreeMap::new();
        if wanted.applications.is_empty() {
            return Ok(entries);
        }
        let program =
            crate::launch::sibling("macrohard-hypervisor").map_err(std::io::Error::other)?;
        let program = program.to_str().filter(|program| is_program(program)).ok_or_else(|| {
            std::io::Error::other(format!("{} cannot be named in a launcher", program.display()))
        })?;
        let icons = self.folder.icons_of(vm)?;
        for application in &wanted.applications {
            let id = host_id(vm, &application.id);
            let icon = application.icon != 0 && icons.contains_key(&id);
            let open_with = wanted.settings.open_with;
            if let Some(text) = (Entry { vm, application, program, open_with, icon }).text() {
                if icon {
                    named.insert(id.clone());
                }
                entries.insert(id, text);
            }
        }
        Ok(entries)
    }

    /// Of the icons that there are.
    pub(super) fn numbers(&self) -> Numbers {
        Numbers::read(self.about.places.state_of(&self.about.vm).join("icons.json"))
    }
}

/// Has the desktop's own table of types follow, where its program is installed.
async fn note_types(entries: &Path) {
    let mut program = Command::new("update-desktop-database");
    program.arg("-q").arg(entries).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = program.kill_on_drop(true).status();
    match tokio::time::timeout(TYPES_PATIENCE, running).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!(
                "update-desktop-database is not installed: types may open with what they did"
            );
        }
        other => tracing::warn!(?other, "update-desktop-database failed"),
    }
}

/// Removes the launchers of VMs that are not among `known`: an earlier daemon's that was killed before it
/// could.
pub(in crate::daemon) async fn sweep(places: &Places, known: BTreeSet<String>) {
    let folder = Folder::of(places);
    let entries = folder.entries().to_owned();
    let swept = tokio::task::spawn_blocking(move || folder.sweep(&known)).await;
    match swept {
        Ok(Ok(Done { removed: 0, .. })) => {}
        Ok(Ok(Done { removed, types, .. })) => {
            tracing::info!(removed, "launchers and icons of VMs that are gone");
            if types {
                note_types(&entries).await;
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "launchers of VMs that are gone cannot be removed")
        }
        Err(error) => tracing::error!(%error, "launchers are not looked through"),
    }
}

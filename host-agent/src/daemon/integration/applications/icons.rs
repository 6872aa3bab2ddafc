//! Fetches icons from the agents: a few at once, each under limits, those that failed not again.

use super::Shared;
use super::told::Paced;
use crate::daemon::agents::Agent;
use crate::launchers::folder::Icon;
use crate::launchers::names::host_id;
use crate::launchers::{drawing, picture};
use crate::untrusted::Untrusted;
use definition::{Existing, write_atomically};
use proto::v1::{Application, IconRequest, icon_reply};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// At once.
const MOST: usize = 4;
/// In a minute: judging pictures is what a guest could keep this host busy with.
pub(super) const MOST_FETCHED: u32 = 600;
/// For each.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer, in bytes: the largest icon and what is around it.
const ANSWER: usize = (1 << 20) + 1024;
/// All icons of one VM on the host's disk, in bytes.
const ROOM: u64 = 64 << 20;
/// An agent that lets so many calls in a row pass is not asked any more in this round.
const MOST_SILENT: usize = 8;

/// Which icons there are, by application: `Application.icon` of the one that was fetched.
#[derive(Debug)]
pub(super) struct Numbers {
    path: PathBuf,
    numbers: BTreeMap<String, u64>,
}

impl Numbers {
    /// Those kept at `path`; unreadable ones are as if none had been fetched.
    pub(super) fn read(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_default();
        Self { numbers: serde_json::from_slice(&bytes).unwrap_or_default(), path }
    }

    fn write(&self) {
        let bytes = serde_json::to_vec(&self.numbers).unwrap_or_default();
        if let Err(error) = write_atomically(&self.path, &bytes, Existing::Replace) {
            tracing::warn!(%error, "icons are fetched again next time");
        }
    }
}

/// Why there is no icon.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    /// No answer in time, or none at all.
    Silent,
    /// The guest says that it has none.
    Refused,
    /// It breaks a limit, or is no picture.
    Bad,
    /// A file of another has its place.
    Taken,
    /// There are enough.
    Full,
}

impl Shared {
    /// Fetches the icons of `applications` that are missing or have changed. True when there are new ones.
    pub(super) async fn fetch_icons(self: &Arc<Self>, applications: &[Application]) -> bool {
        let vm = self.about.vm.as_str();
        let found = self.blocking(|shared| {
            let there = shared.folder.icons_of(&shared.about.vm)?;
            Ok::<_, std::io::Error>((shared.numbers(), there))
        });
        let Some(Ok((mut numbers, there))) = found.await else {
            return false;
        };
        let mut room = ROOM.saturating_sub(there.values().sum());
        let before = numbers.numbers.clone();
        numbers.numbers.retain(|id, _| there.contains_key(&host_id(vm, id)));
        self.held().failed.retain(|id, _| applications.iter().any(|told| told.id == *id));
        let mut waiting = applications.iter().filter(|application| {
            application.icon != 0 && numbers.numbers.get(&application.id) != Some(&application.icon)
        });
        let mut running = JoinSet::new();
        let mut missing = BTreeMap::<Missing, usize>::new();
        let (mut silent, mut done) = (0, Vec::new());
        loop {
            while running.len() < MOST && silent < MOST_SILENT && !self.is_behind() {
                let Some(application) = waiting.next() else {
                    break;
                };
                if let Some(agent) = self.agent_for(application) {
                    if !self.may_fetch() {
                        break;
                    }
                    let (id, number) = (application.id.clone(), application.icon);
                    running.spawn(async move { (fetch(&agent, &id).await, id, number) });
                }
            }
            let Some(Ok((icon, id, number))) = running.join_next().await else {
                break;
            };
            let kept = match icon {
                Ok(icon) => self.keep(&id, icon, &mut room).await,
                Err(problem) => Err(problem),
            };
            match kept {
                Ok(()) => {
                    silent = 0;
                    done.push((id, number));
                }
                Err(problem) => {
                    silent = if problem == Missing::Silent { silent + 1 } else { 0 };
                    *missing.entry(problem).or_default() += 1;
                    self.held().failed.insert(id, number);
                }
            }
        }
        let fetched = done.len();
        numbers.numbers.extend(done);
        if numbers.numbers != before {
            // After `deleted` there is no folder for it.
            self.blocking(move |shared| {
                if !shared.held().deleted {
                    numbers.write();
                }
            })
            .await;
        }
        if fetched > 0 || !missing.is_empty() {
            tracing::info!(vm, fetched, ?missing, "icons");
        }
        fetched > 0
    }

    /// Whether another icon may be fetched now; if not, a later round goes on.
    fn may_fetch(self: &Arc<Self>) -> bool {
        match self.held().icon_pace.take(Instant::now()) {
            Paced::Go { .. } => true,
            Paced::First { until } => {
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep_until(until.into()).await;
                    shared.publish();
                });
                false
            }
            Paced::Stop => false,
        }
    }

    /// The agent that told of an application whose icon has not failed.
    fn agent_for(&self, application: &Application) -> Option<Agent> {
        let held = self.held();
        if held.failed.get(&application.id) == Some(&application.icon) {
            return None;
        }
        let mut telling = held.lists.iter().filter(|(_, told)| told.has(&application.id));
        telling.find_map(|(role, _)| held.agents.get(role)).cloned()
    }

    async fn keep(
        self: &Arc<Self>,
        application: &str,
        icon: Icon,
        room: &mut u64,
    ) -> Result<(), Missing> {
        let bytes = match &icon {
            Icon::Picture(picture) => picture.png.len(),
            Icon::Drawing(text) => text.len(),
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        *room = room.checked_sub(bytes).ok_or(Missing::Full)?;
        let id = host_id(&self.about.vm, application);
        match self.blocking(move |shared| shared.folder.set_icon(&id, &icon)).await {
            Some(Ok(true)) => Ok(()),
            Some(Err(error)) => {
                tracing::warn!(vm = self.about.vm, %error, "an icon cannot be written");
                Err(Missing::Taken)
            }
            _ => Err(Missing::Taken),
        }
    }
}

async fn fetch(agent: &Agent, id: &str) -> Result<Icon, Missing> {
    let mut client = agent.client().max_decoding_message_size(ANSWER);
    let request = IconRequest { application: id.to_owned(), size: picture::EDGE };
    let reply = match tokio::time::timeout(PATIENCE, client.icon(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            return Err(match status.code() {
                // Longer than it may be.
                tonic::Code::OutOfRange => Missing::Bad,
                _ if std::error::Error::source(&status).is_some() => Missing::Silent,
                _ => Missing::Refused,
            });
        }
        Err(_) => return Err(Missing::Silent),
    };
    // Not on a thread that answers calls.
    let checked = tokio::task::spawn_blocking(move || match reply.icon {
        Some(icon_reply::Icon::Png(bytes)) => {
            picture::check(Untrusted::new(bytes)).map(Icon::Picture).map_err(|_| Missing::Bad)
        }
        Some(icon_reply::Icon::Svg(bytes)) => {
            drawing::check(Untrusted::new(bytes)).map(Icon::Drawing).map_err(|_| Missing::Bad)
        }
        None => Err(Missing::Refused),
    });
    checked.await.unwrap_or(Err(Missing::Bad))
}

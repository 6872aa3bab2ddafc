//! One VM's side of the clipboard: its rules, its meters, its files, and the person's word on it.

use super::About;
use super::audit::{Entry, Ledger, Way, name};
use super::consent::{Consent, Known, Said, Wish};
use super::meter::Meter;
use super::rules::Rules;
use crate::daemon::desktop::ask::{Answer, Asking, Denial, Question};
use crate::daemon::desktop::clipboard::{Giver, Hub};
use crate::daemon::integration::shares::{Rights, Shares};
use clipboard::{Content, FetchError, Format};
use clipboard_relay::{Id, content, files};
use log_limits::Seldom;
use proto::v1::{ClipboardFiles, SharedFolder};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Pastes of a VM at once.
const MOST_PASTES: usize = 4;
/// Requests of a guest at once: those of one paste while the person is asked.
const MOST_FETCHES: usize = 8;

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Side {
    about: Arc<About>,
    shares: Arc<Shares>,
    meter: Mutex<Meter>,
    pastes: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    refusals: Seldom,
    ledger: Arc<Ledger>,
    consent: Mutex<Consent>,
    /// Held while the person is asked.
    asking: tokio::sync::Mutex<()>,
}

impl Side {
    pub(super) fn new(about: Arc<About>, shares: Arc<Shares>) -> Self {
        let ledger = Ledger::new(about.places.clipboard_log(), &about.vm);
        Self {
            about,
            shares,
            meter: Mutex::new(Meter::new(Instant::now())),
            pastes: Arc::new(Semaphore::new(MOST_PASTES)),
            fetches: Arc::new(Semaphore::new(MOST_FETCHES)),
            refusals: Seldom::default(),
            ledger,
            consent: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub(in crate::daemon) fn vm(&self) -> &str {
        &self.about.vm
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.about.desktop.clipboard
    }

    /// What the definition says now.
    pub(in crate::daemon) fn rules(&self) -> Rules {
        Rules::new(self.about.definition().map(|definition| definition.clipboard))
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Consent> {
        self.consent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The definition may say something else.
    pub(super) fn rules_changed(&self) {
        self.known().rules_are(&self.rules());
    }

    /// Counts what a guest does that is not taken. A flood of it is not one of lines.
    pub(super) fn refused(&self, what: &'static str, why: &impl Display) {
        if let Some(kept) = self.refusals.due() {
            tracing::warn!(vm = self.vm(), kept, %why, "clipboard: {what} is refused");
        }
    }

    /// Content that is not what it should be.
    pub(in crate::daemon) fn refused_content(&self, error: &FetchError) {
        if matches!(error, FetchError::Failed(_) | FetchError::Large(_)) {
            self.refused("content", error);
        }
    }

    /// Another offer of the guest.
    pub(super) fn meter_offer(&self) -> Result<(), Status> {
        if self.meter().offer(Instant::now()) {
            return Ok(());
        }
        let why = "more offers than may come in this time";
        self.refused("an offer", &why);
        Err(Status::resource_exhausted(why))
    }

    /// Another request of the guest.
    pub(super) fn meter_fetch(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.fetches).try_acquire_owned().ok();
        if let Some(permit) = permit.filter(|_| self.meter().fetch(Instant::now())) {
            return Ok(permit);
        }
        let why = "more is pasted than may be in this time";
        self.refused("a paste", &why);
        Err(Status::resource_exhausted(why))
    }

    /// Content of this VM comes or goes.
    pub(in crate::daemon) fn begin(&self) -> Result<OwnedSemaphorePermit, FetchError> {
        let permit = Arc::clone(&self.pastes).try_acquire_owned().ok();
        permit.filter(|_| self.meter().room(Instant::now())).ok_or_else(|| {
            let why = "more is pasted than may be in this time";
            self.refused("content", &why);
            FetchError::Failed(why.to_owned())
        })
    }

    /// Content of this VM has come or gone.
    pub(in crate::daemon) fn counted(&self, bytes: usize) {
        self.meter().add(bytes);
    }

    /// Writes down a paste.
    pub(in crate::daemon) fn entry(&self, way: Way, format: Format) -> Entry {
        self.ledger.entry(way, format)
    }

    /// Whether the person lets this be pasted, by `taker` if that is another VM. All that one paste of such content
    /// asks for is one question, and a no holds for a while.
    pub(in crate::daemon) async fn consent(
        &self,
        asking: &Asking,
        way: Way,
        id: Id,
        format: Format,
        taker: Option<&str>,
    ) -> bool {
        let wish = Wish::new(id, way, format, taker);
        let _turn = self.asking.lock().await;
        self.rules_changed();
        let known = self.known().known(&wish, Instant::now());
        match known {
            Some(Known::Same(allowed)) => return allowed,
            Some(Known::Held) => {
                self.refused("a paste", &"the person has said no a short while ago");
                return false;
            }
            None => {}
        }
        let summary = "may the clipboard be pasted?".to_owned();
        let question = Question { vm: self.vm().to_owned(), summary, body: wish.body() };
        let answer = asking.ask(question).await;
        if let Answer::Denied(why) = answer {
            tracing::info!(vm = self.vm(), %why, format = name(format), "a paste is denied");
        }
        let said = match answer {
            Answer::Allowed => Said::Yes,
            Answer::Denied(Denial::Person | Denial::Late) => Said::No,
            Answer::Denied(Denial::Busy | Denial::Unable) => Said::NotAsked,
        };
        self.known().said(wish, said, Instant::now());
        said == Said::Yes
    }

    /// Content as it travels to this VM's guest; files by way of its shares.
    /// What a guest has named opens nothing for another: it could climb from folder to folder.
    pub(super) async fn bytes_for_guest(
        &self,
        content: Content,
        from: Giver,
    ) -> Result<Vec<u8>, FetchError> {
        let paths = match content {
            Content::Bytes(bytes) => return Ok(bytes),
            // Nobody moves what may only be read.
            Content::Files { paths, cut: _ } => paths,
        };
        if paths.is_empty() || paths.len() > files::MOST {
            return Err(FetchError::Failed(format!("{} files are too many", paths.len())));
        }
        let mut list = Vec::new();
        for path in paths {
            // Whoever copies a file on the host lets it be read, and no more.
            let rights = match from {
                Giver::Host => Rights::Read,
                Giver::Guest => Rights::AsShared,
            };
            let shared = self.shares.reach(&path, rights).await;
            let shared = shared.map_err(|problem| FetchError::Failed(problem.to_string()))?;
            list.push(proto::v1::ClipboardFile { tag: shared.tag, path: shared.path });
        }
        let bytes = files::encode(list, false);
        content::check(Format::Files, &bytes).map(|()| bytes)
    }

    /// Files that a guest names, on this host.
    pub(in crate::daemon) fn files_of_guest(
        &self,
        list: &ClipboardFiles,
    ) -> Result<Content, FetchError> {
        on_host(&given(self.shares.list().shares), list)
            .inspect_err(|error| self.refused("a list of files", error))
    }
}

/// A folder that a guest has.
struct Shared {
    path: PathBuf,
    read_only: bool,
}

/// The folders that the person has given, by tag. A portal is none: it shows single files, and its folder is no
/// business of the guest's.
fn given(shares: Vec<SharedFolder>) -> BTreeMap<String, Shared> {
    let whole = shares.into_iter().filter(|share| !share.portal);
    let named = whole.map(|share| {
        let path = PathBuf::from(OsStr::from_bytes(&share.path));
        (share.tag, Shared { path, read_only: share.read_only })
    });
    named.collect()
}

/// What a guest names as files below shares. A link that leads out of its share does not count. What a guest
/// could not move itself it does not have moved.
fn on_host(
    shares: &BTreeMap<String, Shared>,
    list: &ClipboardFiles,
) -> Result<Content, FetchError> {
    let mut paths = Vec::new();
    let mut cut = list.cut;
    for file in &list.files {
        let share = shares
            .get(&file.tag)
            .ok_or_else(|| FetchError::Failed("a file is of a folder that is not shared".into()))?;
        cut &= !share.read_only;
        let found = resolved(&share.path, &files::below(&share.path, file));
        paths.push(found.ok_or_else(|| {
            FetchError::Failed("a file is not there, or not in its shared folder".to_owned())
        })?);
    }
    Ok(Content::Files { paths, cut })
}

fn resolved(folder: &Path, path: &Path) -> Option<PathBuf> {
    let (folder, path) = (folder.canonicalize().ok()?, path.canonicalize().ok()?);
    path.starts_with(folder).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::ClipboardFile;

    #[test]
    fn a_guest_names_nothing_in_the_folder_of_a_portal() {
        let folder = |tag: &str, portal| SharedFolder {
            tag: tag.into(),
            path: "/home/me".into(),
            portal,
            ..SharedFolder::default()
        };
        let given = given(vec![folder("home", false), folder("opened-1", true)]);
        assert_eq!(given.keys().collect::<Vec<_>>(), ["home"]);
    }

    #[test]
    fn files_of_a_guest_are_below_their_share_and_there() {
        let desk = tempfile::tempdir().unwrap();
        let desk = desk.path().canonicalize().unwrap();
        let shared = desk.join("shared");
        std::fs::create_dir_all(shared.join("in")).unwrap();
        std::fs::write(shared.join("in/a"), "").unwrap();
        std::fs::write(desk.join("secret"), "").unwrap();
        std::os::unix::fs::symlink("in/a", shared.join("good")).unwrap();
        std::os::unix::fs::symlink("../secret", shared.join("bad")).unwrap();
        std::os::unix::fs::symlink(&desk, shared.join("worse")).unwrap();
        let share = |read_only| Shared { path: shared.clone(), read_only };
        let shares =
            BTreeMap::from([("docs".to_owned(), share(false)), ("fixed".to_owned(), share(true))]);
        let named = |tag: &str, path: &str| {
            let file = ClipboardFile { tag: tag.into(), path: path.into() };
            on_host(&shares, &ClipboardFiles { files: vec![file], cut: true })
        };
        let paths = |path: PathBuf| Ok(Content::Files { paths: vec![path], cut: true });
        assert_eq!(named("docs", "in/a"), paths(shared.join("in/a")));
        assert_eq!(named("docs", "good"), paths(shared.join("in/a")));
        assert_eq!(named("docs", ""), paths(shared.clone()));
        let copied = Content::Files { paths: vec![shared.join("in/a")], cut: false };
        assert_eq!(named("fixed", "in/a"), Ok(copied));
        for (tag, path) in [
            ("docs", "bad"),
            ("docs", "worse/secret"),
            ("docs", "missing"),
            ("docs", "../secret"),
            ("other", "in/a"),
        ] {
            assert!(matches!(named(tag, path), Err(FetchError::Failed(_))), "{tag} {path}");
        }
    }
}

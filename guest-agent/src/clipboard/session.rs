//! The clipboard during one connection to the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use agent_link::Channel;
use clipboard::{Backend, Boxed, Content, FetchError, Format, Offered, Selection, Source};
use clipboard_relay::{
    Announcement, Desk, Here, Id, Outbox, Place, Policy, Relay, Sent, Step, content, deliver,
    files, keep, transfer,
};
use proto::v1;
use proto::v1::host_client::HostClient;
use tonic::{Code, Status};

/// How long the host may take for an offer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long until content of the host begins to come: a person may be asked there.
const FIRST: Duration = Duration::from_secs(30);
/// How long a program may take with what it has copied.
const LOCAL: Duration = Duration::from_secs(15);
/// The folder in a user's home where shares are.
const SHARES: &str = "Host";

/// The one peer: the host.
type Host = ();

/// The host decides what may go which way.
struct All;

impl Policy<Host> for All {
    fn of_peer(&self, (): &Host, _: Selection) -> BTreeSet<Format> {
        [Format::Text, Format::Html, Format::Png, Format::Files].into()
    }

    fn to_peer(&self, host: &Host, selection: Selection) -> BTreeSet<Format> {
        self.of_peer(host, selection)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    this: Weak<Self>,
    host: HostClient<Channel>,
    state: Mutex<State>,
    to_host: Outbox,
    to_desktop: Outbox,
}

#[derive(Debug)]
struct State {
    relay: Relay<Host>,
    backend: Option<Arc<dyn Backend>>,
    /// Why there is none, so that it is said once.
    why: String,
}

/// Content of the host.
struct FromHost {
    session: Weak<Session>,
    selection: Selection,
    id: Id,
}

impl Session {
    pub(super) fn new(here: Arc<Here>, host: HostClient<Channel>) -> Arc<Self> {
        let mut relay = Relay::new(here);
        relay.joined(());
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            host,
            state: Mutex::new(State { relay, backend: None, why: String::new() }),
            to_host: Outbox::default(),
            to_desktop: Outbox::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps both in step until it is dropped.
    pub(super) async fn run(&self) {
        tokio::join!(
            keep(self, self.to_desktop.wanted()),
            deliver(self.to_host.wanted(), |announcement| self.say(announcement)),
        );
    }

    /// Takes back what the host offered.
    pub(super) fn end(&self) {
        let backend = self.state().backend.take();
        if let Some(backend) = backend {
            tokio::spawn(async move {
                backend.clear(Selection::Clipboard).await;
                backend.clear(Selection::Primary).await;
            });
        }
    }

    fn settle(&self, state: &mut State) {
        for step in state.relay.settle(&All) {
            match step {
                Step::Show(announcement) => self.to_desktop.put(announcement),
                Step::Tell((), announcement) => self.to_host.put(announcement),
            }
        }
    }

    async fn say(&self, announcement: Announcement) -> Sent {
        let mut host = self.host.clone();
        let said = host.offer_clipboard(announcement.message());
        match tokio::time::timeout(PATIENCE, said).await {
            Ok(Ok(_)) => Sent::Done,
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => Sent::Again,
            Ok(Err(status)) => {
                tracing::debug!(message = status.message(), "the host does not take an offer");
                Sent::Done
            }
            Err(_) => Sent::Again,
        }
    }

    pub(super) fn tell_again(&self) {
        let mut state = self.state();
        state.relay.tell_again();
        self.settle(&mut state);
    }

    pub(super) fn offered(&self, offer: &v1::ClipboardOffer) -> Result<(), Status> {
        let announcement = Announcement::check(offer)
            .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
        let mut state = self.state();
        if let Err(reason) = state.relay.heard(&(), announcement, &All) {
            tracing::debug!(%reason, "an offer of the host does not count");
        }
        self.settle(&mut state);
        Ok(())
    }

    /// What the host asks for.
    pub(super) async fn content(&self, fetch: &v1::ClipboardFetch) -> Result<Vec<u8>, Status> {
        let (selection, id, format) = transfer::check(fetch)?;
        let backend = {
            let state = self.state();
            let source = state.relay.source_for_peer(&(), selection, id, format);
            match source {
                Some(Place::Here(number)) => state.backend.clone().map(|backend| (backend, number)),
                Some(Place::Peer(())) | None => None,
            }
        };
        let bytes = async {
            let (backend, number) = backend.ok_or(FetchError::Gone)?;
            let fetched = backend.fetch(selection, number, format, content::most(format));
            let fetched = tokio::time::timeout(LOCAL, fetched).await;
            let bytes = match fetched.unwrap_or(Err(FetchError::Late))? {
                Content::Bytes(bytes) => bytes,
                Content::Files { paths, cut } => shared(&home(), &paths, cut)?,
            };
            content::check(format, &bytes)?;
            Ok(bytes)
        };
        bytes.await.map_err(|error| transfer::status(&error))
    }

    /// What the host has.
    async fn of_host(
        &self,
        selection: Selection,
        id: Id,
        format: Format,
    ) -> Result<Content, FetchError> {
        let most = content::most(format);
        let asked_at = Instant::now();
        let mut host = self.host.clone();
        let asked = host.fetch_clipboard(transfer::request(selection, id, format));
        let chunks = match tokio::time::timeout(FIRST, asked).await {
            Ok(Ok(chunks)) => chunks.into_inner(),
            Ok(Err(status)) => return Err(transfer::error(&status, most)),
            Err(_) => return Err(FetchError::Late),
        };
        let bytes = transfer::collect(chunks, most, transfer::PAUSE).await?;
        content::check(format, &bytes)?;
        let nanoseconds = asked_at.elapsed().as_nanos();
        tracing::debug!(nanoseconds, bytes = bytes.len(), "content of the host is here");
        if format != Format::Files {
            return Ok(Content::Bytes(bytes));
        }
        let list =
            files::decode(&bytes).map_err(|problem| FetchError::Failed(problem.to_string()))?;
        let shares = home().join(SHARES);
        let paths = list.files.iter().map(|file| files::below(&shares.join(&file.tag), file));
        Ok(Content::Files { paths: paths.collect(), cut: list.cut })
    }
}

impl Desk for Session {
    fn connected(&self, backend: &Arc<dyn Backend>) {
        tracing::info!(desktop = backend.name(), "clipboard");
        let mut state = self.state();
        state.backend = Some(Arc::clone(backend));
        state.why.clear();
    }

    fn lost(&self, why: String) {
        let mut state = self.state();
        state.backend = None;
        if state.why != why {
            tracing::info!(why, "no clipboard");
            state.why = why;
        }
        state.relay.desktop_lost();
        self.settle(&mut state);
    }

    fn copied(&self, offered: Offered, stands: bool) {
        let mut state = self.state();
        state.relay.copied(offered, stands);
        self.settle(&mut state);
    }

    fn source(&self, announcement: &Announcement) -> Arc<dyn Source> {
        let Announcement { selection, id, .. } = *announcement;
        Arc::new(FromHost { session: Weak::clone(&self.this), selection, id })
    }
}

impl Source for FromHost {
    fn fetch(&self, format: Format) -> Boxed<Result<Content, FetchError>> {
        let (session, selection, id) = (self.session.upgrade(), self.selection, self.id);
        Box::pin(
            async move { session.ok_or(FetchError::Gone)?.of_host(selection, id, format).await },
        )
    }
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}

/// Files as they travel: those below a share. The host sees no others.
fn shared(home: &Path, paths: &[PathBuf], cut: bool) -> Result<Vec<u8>, FetchError> {
    let shares = home.join(SHARES);
    let mut found = Vec::new();
    for path in paths {
        let below = path.strip_prefix(&shares).ok();
        let tag = below.and_then(|below| below.components().next()?.as_os_str().to_str());
        found.extend(tag.and_then(|tag| files::within(&shares.join(tag), tag, path)));
    }
    if found.len() > files::MOST {
        return Err(FetchError::Failed(format!("more than {} files", files::MOST)));
    }
    if found.is_empty() || found.len() < paths.len() {
        let missing = paths.len() - found.len();
        return Err(FetchError::Failed(format!(
            "{missing} of the files lie outside of ~/{SHARES}, where the host does not see them"
        )));
    }
    Ok(files::encode(found, cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_shares_are_given_and_all_or_none() {
        let list = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            shared(Path::new("/home/ann"), &paths, true)
        };
        let bytes = list(&["/home/ann/Host/docs/a b/c", "/home/ann/Host/pics"]).unwrap();
        let files = files::decode(&bytes).unwrap();
        assert!(files.cut);
        let told: Vec<_> =
            files.files.iter().map(|file| (file.tag.as_str(), &file.path[..])).collect();
        assert_eq!(told, [("docs", &b"a b/c"[..]), ("pics", b"")]);
        for paths in [
            &["/etc/passwd"][..],
            &["/home/ann/Host/docs/a", "/home/ann/secret"],
            &["/home/ann/Host"],
            &["/home/ann/Host/docs/../../secret"],
            &[],
        ] {
            assert!(list(paths).is_err(), "{paths:?}");
        }
    }
}

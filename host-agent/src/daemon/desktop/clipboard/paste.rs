//! A paste: where the content is, whether it may go, and bringing it.

use super::{Hub, Peer};
use crate::daemon::agents::Agent;
use crate::daemon::integration::clipboard::{Entry, Side, Way};
use clipboard::{Backend, Content, FetchError, Format, Selection};
use clipboard_relay::{Id, Place, content, files, transfer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a program of the host may take with what it has copied.
const LOCAL: Duration = Duration::from_secs(15);

/// Where the content is.
enum From {
    /// Its clipboard's offer with this number.
    Host(Arc<dyn Backend>, u64),
    Guest(Arc<Side>, Agent),
}

/// Who has copied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Giver {
    /// The person, on the host.
    Host,
    /// A program in a guest.
    Guest,
}

/// A way that is open now.
struct Found {
    from: From,
    to: Option<Arc<Side>>,
}

impl Found {
    fn giver(&self) -> Option<&Arc<Side>> {
        match &self.from {
            From::Host(..) => None,
            From::Guest(side, _) => Some(side),
        }
    }

    /// The VM whose person is asked: the one that gets the content, unless only the other wants it.
    fn asks(&self) -> Option<(&Arc<Side>, Way)> {
        let (from, to) = (self.giver(), self.to.as_ref());
        let way = match (from, to) {
            (None, _) => Way::ToGuest,
            (Some(_), None) => Way::ToHost,
            (Some(_), Some(_)) => Way::Between,
        };
        [to, from].into_iter().flatten().find(|side| side.rules().asks()).map(|side| (side, way))
    }
}

impl Hub {
    /// Content for a guest's session, or for the host's desktop.
    pub(in crate::daemon) async fn paste(
        &self,
        to: Option<&Peer>,
        selection: Selection,
        id: Id,
        format: Format,
    ) -> Result<(Content, Giver), FetchError> {
        let found = self.find(to, selection, id, format)?;
        let giver = if found.giver().is_some() { Giver::Guest } else { Giver::Host };
        let mut entries: Vec<Entry> = Vec::new();
        entries.extend(found.to.as_ref().map(|side| side.entry(Way::ToGuest, format)));
        entries.extend(found.giver().map(|side| side.entry(Way::ToHost, format)));
        let pasted = self.bring(found, to, selection, id, format).await;
        for entry in entries {
            entry.end(&pasted);
        }
        pasted.map(|content| (content, giver))
    }

    async fn bring(
        &self,
        mut found: Found,
        to: Option<&Peer>,
        selection: Selection,
        id: Id,
        format: Format,
    ) -> Result<Content, FetchError> {
        if let Some((side, way)) = found.asks() {
            let taker = found.to.as_ref().map(|to| to.vm());
            if !side.consent(&self.asking, way, id, format, taker).await {
                return Err(FetchError::Denied);
            }
            // It may have been replaced or forbidden while the person was thinking.
            found = self.find(to, selection, id, format)?;
        }
        let sides = [found.to.as_ref(), found.giver()];
        let _permits: Vec<_> =
            sides.iter().flatten().map(|side| side.begin()).collect::<Result<_, _>>()?;
        let most = content::most(format);
        let content = match &found.from {
            From::Host(backend, number) => {
                let asked_at = Instant::now();
                let fetched = backend.fetch(selection, *number, format, most);
                let fetched = tokio::time::timeout(LOCAL, fetched).await;
                let content = fetched.unwrap_or(Err(FetchError::Late))?;
                let nanoseconds = asked_at.elapsed().as_nanos();
                tracing::debug!(nanoseconds, "content of the desktop is here");
                // What was copied meanwhile is not what was asked for.
                self.find(to, selection, id, format)?;
                content
            }
            From::Guest(side, agent) => of_guest(side, agent, selection, id, format).await?,
        };
        if let Content::Bytes(bytes) = &content {
            content::check(format, bytes)?;
            sides.iter().flatten().for_each(|side| side.counted(bytes.len()));
        }
        Ok(content)
    }

    /// Where it is, as the definitions and what has been announced are now.
    fn find(
        &self,
        to: Option<&Peer>,
        selection: Selection,
        id: Id,
        format: Format,
    ) -> Result<Found, FetchError> {
        let mut state = self.state().ok_or(FetchError::Gone)?;
        // A definition that was changed by hand counts from here on, too.
        self.settle(&mut state);
        let place = match to {
            Some(peer) => state.relay.source_for_peer(peer, selection, id, format),
            None => state.relay.source_for_desktop(selection, id, format).map(Place::Peer),
        };
        let from = match place.ok_or(FetchError::Gone)? {
            Place::Here(number) => {
                From::Host(state.backend.clone().ok_or(FetchError::Gone)?, number)
            }
            Place::Peer(peer) => {
                let session = state.sessions.get(&peer).ok_or(FetchError::Gone)?;
                From::Guest(Arc::clone(&session.side), session.agent.clone())
            }
        };
        let to = to.and_then(|peer| state.sessions.get(peer));
        Ok(Found { from, to: to.map(|session| Arc::clone(&session.side)) })
    }
}

/// What a guest's agent gives. All of it is a guest's: its length and form are checked.
async fn of_guest(
    side: &Side,
    agent: &Agent,
    selection: Selection,
    id: Id,
    format: Format,
) -> Result<Content, FetchError> {
    let most = content::most(format);
    let mut client = agent.client();
    let asked = client.fetch_clipboard(transfer::request(selection, id, format));
    let chunks = match tokio::time::timeout(transfer::PAUSE, asked).await {
        Ok(Ok(chunks)) => chunks.into_inner(),
        Ok(Err(status)) => return Err(transfer::error(&status, most)),
        Err(_) => return Err(FetchError::Late),
    };
    let bytes = transfer::collect(chunks, most, transfer::PAUSE).await;
    let checked = bytes.and_then(|bytes| content::check(format, &bytes).map(|()| bytes));
    let bytes = checked.inspect_err(|error| side.refused_content(error))?;
    if format != Format::Files {
        return Ok(Content::Bytes(bytes));
    }
    let list = files::decode(&bytes).map_err(|problem| FetchError::Failed(problem.to_string()))?;
    side.files_of_guest(&list)
}

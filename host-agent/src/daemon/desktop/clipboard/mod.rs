//! The host's clipboard, and those of all guests: what is copied on one can be pasted on the others, as far
//! as the VMs' definitions let it.
//!
//! One [`Hub`] for all VMs. It is connected to the desktop from the first guest with a clipboard on. What
//! it decides, it decides anew from the definitions whenever something has changed.

mod paste;
mod rulebook;

use super::ask::Asking;
use crate::daemon::agents::Agent;
use crate::daemon::integration::clipboard::Side;
use agent_link::Role;
use clipboard::{Backend, Boxed, Content, FetchError, Format, Offered, Selection, Source};
use clipboard_relay::{
    Announcement, Desk, Dropped, Here, Id, Outbox, Relay, Sent, Step, deliver, keep,
};
pub(in crate::daemon) use paste::Giver;
use proto::v1::{Feature, ResyncRequest};
use rulebook::Rulebook;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;
use tonic::Code;

/// How long a guest may take for an offer, and for telling its own again.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session in a guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::daemon) struct Peer {
    pub(in crate::daemon) vm: String,
    pub(in crate::daemon) role: Role,
}

/// See the module.
#[derive(Debug)]
pub(in crate::daemon) struct Hub {
    this: Weak<Self>,
    asking: Arc<Asking>,
    /// None on a system without random bytes, which has no clipboard then.
    state: Option<Mutex<State>>,
    to_desktop: Outbox,
}

#[derive(Debug)]
struct State {
    relay: Relay<Peer>,
    sessions: BTreeMap<Peer, Session>,
    backend: Option<Arc<dyn Backend>>,
    /// Why there is none.
    why: String,
    /// The desktop is looked after.
    kept: bool,
}

#[derive(Debug)]
struct Session {
    side: Arc<Side>,
    agent: Agent,
    outbox: Outbox,
    telling: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

/// Content of a guest for the host's desktop.
struct FromGuest {
    hub: Weak<Hub>,
    selection: Selection,
    id: Id,
}

impl Hub {
    pub(in crate::daemon) fn new(asking: Arc<Asking>) -> Arc<Self> {
        let here = Here::random().inspect_err(|error| {
            tracing::error!(%error, "no clipboard without random bytes");
        });
        let state = here.ok().map(|here| {
            Mutex::new(State {
                relay: Relay::new(Arc::new(here)),
                sessions: BTreeMap::new(),
                backend: None,
                why: "it connects when a guest with a clipboard runs".to_owned(),
                kept: false,
            })
        });
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            asking,
            state,
            to_desktop: Outbox::default(),
        })
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.state.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it is connected to, or why to nothing, for a person.
    pub(in crate::daemon) fn desktop(&self) -> String {
        let Some(state) = self.state() else { return "not connected".to_owned() };
        match &state.backend {
            Some(backend) => backend.name(),
            None => format!("not connected: {}", state.why),
        }
    }

    /// Makes it so everywhere. The caller has changed something.
    fn settle(&self, state: &mut State) {
        let rules = Rulebook::of(state.sessions.values().map(|session| &*session.side));
        for step in state.relay.settle(&rules) {
            match step {
                Step::Show(announcement) => self.to_desktop.put(announcement),
                Step::Tell(peer, announcement) => {
                    if let Some(session) = state.sessions.get(&peer) {
                        session.outbox.put(announcement);
                    }
                }
            }
        }
    }

    /// An agent is there. Returns soon.
    pub(in crate::daemon) fn came(&self, side: &Arc<Side>, agent: &Agent) {
        if !agent.can(Feature::Clipboard) {
            return;
        }
        let Some(mut state) = self.state() else { return };
        if !std::mem::replace(&mut state.kept, true) {
            let hub = Weak::clone(&self.this);
            tokio::spawn(async move {
                // The daemon has one desktop as long as it runs.
                if let Some(hub) = hub.upgrade() {
                    keep(&*hub, hub.to_desktop.wanted()).await;
                }
            });
        }
        let peer = Peer { vm: side.vm().to_owned(), role: agent.role };
        let outbox = Outbox::default();
        let (told, wanted) = (agent.clone(), outbox.wanted());
        let telling = tokio::spawn(async move {
            deliver(wanted, |announcement| tell(told.clone(), announcement)).await;
        });
        let session = Session {
            side: Arc::clone(side),
            agent: agent.clone(),
            outbox,
            telling: telling.abort_handle(),
        };
        state.sessions.insert(peer.clone(), session);
        state.relay.joined(peer);
        self.settle(&mut state);
    }

    /// An agent is not there any more.
    pub(in crate::daemon) fn left(&self, peer: &Peer) {
        let Some(mut state) = self.state() else { return };
        if state.sessions.remove(peer).is_some() {
            state.relay.left(peer);
            self.settle(&mut state);
        }
    }

    /// A VM has ended.
    pub(in crate::daemon) fn ended(&self, vm: &str) {
        let sessions = self.state().map(|state| state.sessions.keys().cloned().collect::<Vec<_>>());
        for peer in sessions.into_iter().flatten().filter(|peer| peer.vm == vm) {
            self.left(&peer);
        }
    }

    /// The definition of a VM may say something else.
    pub(in crate::daemon) fn changed(&self, vm: &str) {
        let Some(mut state) = self.state() else { return };
        self.settle(&mut state);
        // What its guests have may have become allowed.
        let theirs = state.sessions.iter().filter(|(peer, _)| peer.vm == vm);
        for agent in theirs.map(|(_, session)| session.agent.clone()) {
            tokio::spawn(async move {
                let told = agent.client().resync(ResyncRequest {}).await.map(drop);
                if let Err(status) = told {
                    tracing::debug!(code = %status.code(), "a guest does not tell its clipboard again");
                }
            });
        }
    }

    /// An agent announces something.
    pub(in crate::daemon) fn offered(
        &self,
        peer: &Peer,
        announcement: Announcement,
    ) -> Result<(), Dropped> {
        let Some(mut state) = self.state() else { return Err(Dropped::Stranger) };
        let rules = Rulebook::of(state.sessions.values().map(|session| &*session.side));
        let heard = state.relay.heard(peer, announcement, &rules);
        self.settle(&mut state);
        heard
    }
}

async fn tell(agent: Agent, announcement: Announcement) -> Sent {
    let mut client = agent.client();
    let told = client.offer_clipboard(announcement.message());
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(_)) => Sent::Done,
        // It has just come, and is not so far.
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => Sent::Again,
        Ok(Err(status)) => {
            tracing::debug!(code = %status.code(), "a guest does not take an offer");
            Sent::Done
        }
        Err(_) => Sent::Again,
    }
}

impl Desk for Hub {
    fn connected(&self, backend: &Arc<dyn Backend>) {
        tracing::info!(desktop = backend.name(), "clipboard");
        if let Some(mut state) = self.state() {
            state.backend = Some(Arc::clone(backend));
        }
    }

    fn lost(&self, why: String) {
        let Some(mut state) = self.state() else { return };
        if state.why != why {
            tracing::info!(why, "no clipboard");
        }
        (state.backend, state.why) = (None, why);
        state.relay.desktop_lost();
        self.settle(&mut state);
    }

    fn copied(&self, offered: Offered, stands: bool) {
        let Some(mut state) = self.state() else { return };
        state.relay.copied(offered, stands);
        self.settle(&mut state);
    }

    fn source(&self, announcement: &Announcement) -> Arc<dyn Source> {
        let Announcement { selection, id, .. } = *announcement;
        Arc::new(FromGuest { hub: Weak::clone(&self.this), selection, id })
    }
}

impl Source for FromGuest {
    fn fetch(&self, format: Format) -> Boxed<Result<Content, FetchError>> {
        let (hub, selection, id) = (self.hub.upgrade(), self.selection, self.id);
        Box::pin(async move {
            let pasted = hub.ok_or(FetchError::Gone)?.paste(None, selection, id, format).await;
            pasted.map(|(content, _)| content)
        })
    }
}

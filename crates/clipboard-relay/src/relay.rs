//! Who offers what to whom: what was copied last on any of the desktops that are joined can be pasted on
//! all others, as far as policy lets it.
//!
//! The relay holds what was copied last, and what it has said of it to its own desktop and to each peer.
//! After anything has happened, [`Relay::settle`] gives the steps that make both agree. Thus nothing that
//! is not so any more stays, whatever went away: a program, a peer, a permission.
//!
//! Nothing goes in circles: what was copied here, what this relay has told that peer and holds still, and what is
//! older than what the same peer has told of the same desktop is dropped when it comes in. A peer is not told of
//! desktops that it tells of itself. All of this looks only at what one peer has said and was told: whatever
//! another claims, in whoever's name, takes nobody's voice away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use clipboard::{Format, Offered, Selection};

use crate::announcement::{Announcement, Here, Id, Origin};

/// Desktops remembered of those that one peer tells of.
const MEMORY: usize = 16;

/// Where something was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<P> {
    /// On this desktop: the offer of its clipboard with this number.
    Here(u64),
    /// On a peer's, or beyond.
    Peer(P),
}

/// What may go where.
pub trait Policy<P> {
    /// Formats that may come from a peer.
    fn of_peer(&self, peer: &P, selection: Selection) -> BTreeSet<Format>;
    /// Formats that may go to a peer.
    fn to_peer(&self, peer: &P, selection: Selection) -> BTreeSet<Format>;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<P> {
    /// Offer this on the own desktop; without formats, nothing more.
    Show(Announcement),
    /// Tell a peer.
    Tell(P, Announcement),
}

/// Why an announcement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It was copied here.
    #[error("it was copied here")]
    Own,
    /// This peer knows it from here.
    #[error("it comes back from where it was told")]
    Back,
    /// This peer has told a later one of the same desktop.
    #[error("a later copy of its desktop is known")]
    Old,
    /// It only stands, and something else is there.
    #[error("something else is on the clipboard")]
    Standing,
    /// It may not come from this peer.
    #[error("it may not come from there")]
    Forbidden,
    /// Its program says that it is a secret.
    #[error("it is a secret")]
    Secret,
    /// This peer is not joined.
    #[error("nobody is there")]
    Stranger,
}

/// See the module.
#[derive(Debug)]
pub struct Relay<P> {
    here: Arc<Here>,
    lanes: BTreeMap<Selection, Lane<P>>,
    /// Who is there.
    peers: BTreeSet<P>,
}

/// One of the clipboards.
#[derive(Debug)]
struct Lane<P> {
    last: Option<(Place<P>, Announcement)>,
    /// It has been copied since the steps were last asked for; else it only stands.
    fresh: bool,
    /// What the own desktop offers for others.
    shown: Option<Announcement>,
    /// What peers were told and holds still.
    told: BTreeMap<P, Announcement>,
    /// What each peer has told: the latest of each desktop.
    heard: BTreeMap<P, Heard>,
}

/// The latest of each desktop that one peer tells of; those it tells of most.
#[derive(Debug, Default)]
struct Heard(VecDeque<Id>);

impl Heard {
    fn latest(&self, origin: Origin) -> Option<u64> {
        self.0.iter().find(|known| known.origin == origin).map(|known| known.sequence)
    }

    fn remember(&mut self, id: Id) {
        self.0.retain(|known| known.origin != id.origin);
        if self.0.len() == MEMORY {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }
}

impl<P: Ord + Clone + Debug> Relay<P> {
    /// Of a desktop, with nothing on it.
    #[must_use]
    pub fn new(here: Arc<Here>) -> Self {
        let lane = || Lane {
            last: None,
            fresh: false,
            shown: None,
            told: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        let lanes = [Selection::Clipboard, Selection::Primary].map(|which| (which, lane()));
        Self { here, lanes: lanes.into(), peers: BTreeSet::new() }
    }

    fn lane(&mut self, selection: Selection) -> Option<&mut Lane<P>> {
        self.lanes.get_mut(&selection)
    }

    /// A peer is there, and knows nothing.
    pub fn joined(&mut self, peer: P) {
        self.left(&peer);
        self.peers.insert(peer);
    }

    /// A peer is not there any more.
    pub fn left(&mut self, peer: &P) {
        for lane in self.lanes.values_mut() {
            lane.told.remove(peer);
            lane.heard.remove(peer);
            lane.last.take_if(|(from, _)| matches!(from, Place::Peer(from) if from == peer));
        }
        self.peers.remove(peer);
    }

    /// A program of this desktop has copied something. What only `stands` was there when this side looked
    /// first, and gives way to what a peer has copied since.
    pub fn copied(&mut self, offered: Offered, stands: bool) {
        let id = self.here.next();
        let Some(lane) = self.lane(offered.selection) else { return };
        let own = matches!(&lane.last, None | Some((Place::Here(_), _)));
        if offered.formats.is_empty() {
            if own {
                lane.last = None;
            }
            return;
        }
        if stands && !own && lane.last.as_ref().is_some_and(|(_, last)| !last.standing) {
            return;
        }
        let Offered { selection, number, formats, secret } = offered;
        lane.fresh = !stands;
        lane.last = Some((
            Place::Here(number),
            Announcement { selection, id, formats, secret, standing: stands },
        ));
    }

    /// The desktop's display has gone, with all that was on it.
    pub fn desktop_lost(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.shown = None;
            lane.last.take_if(|(from, _)| matches!(from, Place::Here(_)));
        }
    }

    /// A peer announces something.
    ///
    /// # Errors
    /// It does not count. What the same peer announced before does not hold any more in any case, when
    /// this is later.
    pub fn heard(
        &mut self,
        peer: &P,
        announcement: Announcement,
        policy: &impl Policy<P>,
    ) -> Result<(), Dropped> {
        if !self.peers.contains(peer) {
            return Err(Dropped::Stranger);
        }
        let id = announcement.id;
        if id.origin == self.here.origin() {
            return Err(Dropped::Own);
        }
        let Some(lane) = self.lanes.get_mut(&announcement.selection) else {
            return Err(Dropped::Forbidden);
        };
        if lane.told.get(peer).is_some_and(|told| told.id == id) {
            return Err(Dropped::Back);
        }
        let heard = lane.heard.entry(peer.clone()).or_default();
        if let Some(latest) = heard.latest(id.origin) {
            // What stands is told again, and what was told is taken back.
            let again =
                (announcement.standing || announcement.formats.is_empty()) && latest == id.sequence;
            if latest >= id.sequence && !again {
                return Err(Dropped::Old);
            }
        }
        heard.remember(id);
        let theirs = matches!(&lane.last, Some((Place::Peer(from), _)) if from == peer);
        if theirs {
            lane.last = None;
        }
        if announcement.formats.is_empty() {
            return Ok(());
        }
        if announcement.secret {
            return Err(Dropped::Secret);
        }
        if policy.of_peer(peer, announcement.selection).is_disjoint(&announcement.formats) {
            return Err(Dropped::Forbidden);
        }
        if announcement.standing && lane.last.is_some() {
            return Err(Dropped::Standing);
        }
        lane.fresh = !announcement.standing;
        lane.last = Some((Place::Peer(peer.clone()), announcement));
        Ok(())
    }

    /// Forgets what each peer was told, so that it is told again.
    pub fn tell_again(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.told.clear();
        }
    }

    /// What is to be done now. What a peer is told because it has come, or because it has become allowed,
    /// is told as what stands.
    pub fn settle(&mut self, policy: &impl Policy<P>) -> Vec<Step<P>> {
        let mut steps = Vec::new();
        for (selection, lane) in &mut self.lanes {
            // What may leave the place where it was copied.
            let free = lane.last.as_ref().filter(|(_, last)| !last.secret).map(|(from, last)| {
                let mut last = last.clone();
                if let Place::Peer(peer) = from {
                    let allowed = policy.of_peer(peer, *selection);
                    last.formats.retain(|format| allowed.contains(format));
                }
                (from, last)
            });
            let fresh = std::mem::take(&mut lane.fresh);
            let no_more = |said: Option<Announcement>| {
                said.map(|said| Announcement { formats: BTreeSet::new(), standing: false, ..said })
            };
            let wanted = free.as_ref().filter(|(from, _)| matches!(from, Place::Peer(_)));
            let wanted = wanted.map(|(_, last)| last).filter(|last| !last.formats.is_empty());
            if lane.shown.as_ref() != wanted {
                let before = std::mem::replace(&mut lane.shown, wanted.cloned());
                steps.extend(wanted.cloned().or_else(|| no_more(before)).map(Step::Show));
            }
            for peer in &self.peers {
                let wanted = free.as_ref().filter(|(from, last)| {
                    let tells = lane.heard.get(peer).and_then(|heard| heard.latest(last.id.origin));
                    tells.is_none() && !matches!(from, Place::Peer(from) if from == peer)
                });
                let wanted = wanted.and_then(|(_, last)| {
                    let mut last = last.clone();
                    let allowed = policy.to_peer(peer, *selection);
                    last.formats.retain(|format| allowed.contains(format));
                    last.standing = !fresh;
                    (!last.formats.is_empty()).then_some(last)
                });
                if lane.told.get(peer) == wanted.as_ref() {
                    continue;
                }
                let before = lane.told.remove(peer);
                if let Some(wanted) = &wanted {
                    lane.told.insert(peer.clone(), wanted.clone());
                }
                let told = wanted.or_else(|| no_more(before));
                steps.extend(told.map(|told| Step::Tell(peer.clone(), told)));
            }
        }
        steps
    }

    /// Where a peer gets what it asks for: only what it was told, and what holds still.
    #[must_use]
    pub fn source_for_peer(
        &self,
        peer: &P,
        selection: Selection,
        id: Id,
        format: Format,
    ) -> Option<Place<P>> {
        let lane = self.lanes.get(&selection)?;
        let told = lane.told.get(peer).filter(|told| told.id == id)?;
        let (from, last) = lane.last.as_ref()?;
        (told.formats.contains(&format) && last.id == id).then(|| from.clone())
    }

    /// The peer from which this desktop gets what was shown to it.
    #[must_use]
    pub fn source_for_desktop(&self, selection: Selection, id: Id, format: Format) -> Option<P> {
        let shown = self.lanes.get(&selection)?.shown.as_ref().filter(|shown| shown.id == id)?;
        match &self.lanes.get(&selection)?.last {
            Some((Place::Peer(peer), last)) if last.id == id => {
                shown.formats.contains(&format).then(|| peer.clone())
            }
            _ => None,
        }
    }
}

//! What the definitions say now, as the relay asks for it.

use super::Peer;
use crate::daemon::integration::clipboard::{Rules, Side};
use clipboard::{Format, Selection};
use clipboard_relay::Policy;
use std::collections::{BTreeMap, BTreeSet};

/// The rules of the VMs that have sessions.
#[derive(Debug, Default)]
pub(super) struct Rulebook(BTreeMap<String, Rules>);

impl Rulebook {
    pub(super) fn of<'a>(sides: impl Iterator<Item = &'a Side>) -> Self {
        let mut rules = BTreeMap::new();
        for side in sides {
            rules.entry(side.vm().to_owned()).or_insert_with(|| side.rules());
        }
        Self(rules)
    }
}

impl Policy<Peer> for Rulebook {
    fn of_peer(&self, peer: &Peer, selection: Selection) -> BTreeSet<Format> {
        self.0.get(&peer.vm).map_or_else(BTreeSet::new, |rules| rules.to_host(selection))
    }

    fn to_peer(&self, peer: &Peer, selection: Selection) -> BTreeSet<Format> {
        self.0.get(&peer.vm).map_or_else(BTreeSet::new, |rules| rules.to_guest(selection))
    }
}

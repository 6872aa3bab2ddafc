//! Relays that tell each other what is copied, with messages that are late and repeated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use clipboard::{Format, Offered, Selection};
use clipboard_relay::{Announcement, Dropped, Here, Origin, Place, Policy, Relay, Step};
use proptest::prelude::*;

/// Everything may go everywhere.
struct All;

impl Policy<usize> for All {
    fn of_peer(&self, _: &usize, _: Selection) -> BTreeSet<Format> {
        [Format::Text, Format::Html, Format::Png, Format::Files].into()
    }

    fn to_peer(&self, peer: &usize, selection: Selection) -> BTreeSet<Format> {
        self.of_peer(peer, selection)
    }
}

/// What each peer may give and get.
#[derive(Default)]
struct Rules {
    from: BTreeMap<usize, BTreeSet<Format>>,
    to: BTreeMap<usize, BTreeSet<Format>>,
}

impl Policy<usize> for Rules {
    fn of_peer(&self, peer: &usize, _: Selection) -> BTreeSet<Format> {
        self.from.get(peer).cloned().unwrap_or_default()
    }

    fn to_peer(&self, peer: &usize, _: Selection) -> BTreeSet<Format> {
        self.to.get(peer).cloned().unwrap_or_default()
    }
}

fn relay(number: u8) -> Relay<usize> {
    Relay::new(Arc::new(Here::with(Origin::from_bytes(&[number; 16]).unwrap())))
}

fn text() -> Offered {
    let formats = [Format::Text].into();
    Offered { selection: Selection::Clipboard, number: 77, formats, secret: false }
}

fn announcement(origin: u8, sequence: u64) -> Announcement {
    let offer = proto::v1::ClipboardOffer {
        selection: 1,
        origin: vec![origin; 16],
        sequence,
        formats: vec![1],
        ..Default::default()
    };
    Announcement::check(&offer).unwrap()
}

/// Desktops that are all joined with each other.
struct Mesh {
    relays: Vec<Relay<usize>>,
    /// On the way: from, to, what. Of one pair in order.
    ways: BTreeMap<(usize, usize), VecDeque<Announcement>>,
    shown: Vec<Option<Announcement>>,
    told: usize,
}

impl Mesh {
    fn new(count: usize) -> Self {
        let relays = (0..count).map(|number| relay(u8::try_from(number).unwrap() + 1)).collect();
        let mut mesh = Self { relays, ways: BTreeMap::new(), shown: vec![None; count], told: 0 };
        for one in 0..count {
            for other in (0..count).filter(|other| *other != one) {
                mesh.relays[one].joined(other);
            }
        }
        mesh
    }

    fn settle(&mut self, at: usize) {
        for step in self.relays[at].settle(&All) {
            match step {
                Step::Show(shown) => {
                    self.shown[at] = (!shown.formats.is_empty()).then_some(shown);
                }
                Step::Tell(to, told) => {
                    self.told += 1;
                    self.ways.entry((at, to)).or_default().push_back(told);
                }
            }
        }
    }

    fn copy(&mut self, at: usize) {
        self.relays[at].copied(text(), false);
        self.shown[at] = None;
        self.settle(at);
    }

    /// Delivers the next message of a pair, which may be repeated.
    fn carry(&mut self, which: usize, twice: bool) -> bool {
        let waiting: Vec<_> =
            self.ways.iter().filter(|(_, way)| !way.is_empty()).map(|(pair, _)| *pair).collect();
        let Some(pair) = waiting.get(which % waiting.len().max(1)).copied() else { return false };
        let message = self.ways.get_mut(&pair).and_then(VecDeque::pop_front).unwrap();
        for _ in 0..=usize::from(twice) {
            let _ = self.relays[pair.1].heard(&pair.0, message.clone(), &All);
            self.settle(pair.1);
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_copied_ends_everywhere_and_goes_in_no_circles(
        count in 2_usize..5,
        events in proptest::collection::vec((any::<bool>(), 0_usize..60, any::<bool>()), 0..60),
        last in 0_usize..5,
    ) {
        let mut mesh = Mesh::new(count);
        let mut copies = 0;
        for (copy, which, twice) in events {
            if copy {
                mesh.copy(which % count);
                copies += 1;
            } else {
                mesh.carry(which, twice);
            }
        }
        while mesh.carry(0, false) {}
        // Now that all is quiet, one more.
        let last = last % count;
        mesh.copy(last);
        while mesh.carry(mesh.told, false) {}
        for (at, shown) in mesh.shown.iter().enumerate() {
            match shown {
                None => prop_assert_eq!(at, last),
                Some(shown) => {
                    prop_assert_eq!(shown.id.origin.bytes(), vec![u8::try_from(last).unwrap() + 1; 16]);
                }
            }
        }
        // Each desktop tells each other of each copy at most once, and takes it back once.
        let most = 2 * (copies + 1) * count * (count - 1);
        prop_assert!(mesh.told <= most, "{} for {} copies", mesh.told, copies);
    }
}

#[test]
fn what_comes_back_or_is_old_is_dropped_and_what_is_later_replaces() {
    let mut host = relay(1);
    host.joined(7);
    host.joined(8);
    host.copied(text(), false);
    assert_eq!(host.settle(&All).len(), 2);
    assert_eq!(host.heard(&7, announcement(1, 99), &All), Err(Dropped::Own));
    assert_eq!(host.heard(&9, announcement(9, 1), &All), Err(Dropped::Stranger));
    host.heard(&7, announcement(50, 5), &All).unwrap();
    let steps = host.settle(&All);
    assert_eq!(
        steps,
        [
            Step::Show(announcement(50, 5)),
            Step::Tell(7, nothing(1, 1)),
            Step::Tell(8, announcement(50, 5))
        ]
    );
    // From the one that was told of it.
    assert_eq!(host.heard(&8, announcement(50, 5), &All), Err(Dropped::Back));
    for old in [5, 4] {
        assert_eq!(host.heard(&7, announcement(50, old), &All), Err(Dropped::Old));
    }
    host.heard(&7, announcement(50, 6), &All).unwrap();
    assert_eq!(host.settle(&All).len(), 2);
    let source = |host: &Relay<usize>, sequence| {
        let id = announcement(50, sequence).id;
        host.source_for_desktop(Selection::Clipboard, id, Format::Text)
    };
    assert_eq!((source(&host, 5), source(&host, 6)), (None, Some(7)));
    let id = announcement(50, 6).id;
    let for_peer = |peer, format| host.source_for_peer(&peer, Selection::Clipboard, id, format);
    assert_eq!(for_peer(8, Format::Text), Some(Place::Peer(7)));
    assert_eq!((for_peer(8, Format::Png), for_peer(7, Format::Text)), (None, None));
    host.copied(text(), false);
    let steps = host.settle(&All);
    let Some(Step::Tell(7, own)) = steps.iter().find(|step| matches!(step, Step::Tell(..))) else {
        panic!("{steps:?}");
    };
    let here = host.source_for_peer(&7, Selection::Clipboard, own.id, Format::Text);
    assert_eq!(here, Some(Place::Here(77)), "the number of what was copied");
}

fn nothing(origin: u8, sequence: u64) -> Announcement {
    Announcement { formats: BTreeSet::new(), ..announcement(origin, sequence) }
}

#[test]
fn nothing_stays_of_what_has_gone() {
    let mut host = relay(1);
    host.joined(7);
    host.joined(8);
    host.heard(&7, announcement(50, 5), &All).unwrap();
    host.settle(&All);
    host.left(&7);
    assert_eq!(host.settle(&All), [Step::Show(nothing(50, 5)), Step::Tell(8, nothing(50, 5))]);
    assert_eq!(host.heard(&7, announcement(50, 6), &All), Err(Dropped::Stranger));
    // It comes back with what it has.
    host.joined(7);
    let standing = Announcement { standing: true, ..announcement(50, 5) };
    host.heard(&7, standing.clone(), &All).unwrap();
    assert_eq!(host.settle(&All), [Step::Show(standing.clone()), Step::Tell(8, standing)]);
    // Its program ends.
    host.heard(&7, nothing(50, 5), &All).unwrap();
    assert_eq!(host.settle(&All), [Step::Show(nothing(50, 5)), Step::Tell(8, nothing(50, 5))]);

    // The host's own display goes.
    host.copied(text(), false);
    assert_eq!(host.settle(&All).len(), 2);
    host.desktop_lost();
    assert_eq!(host.settle(&All).len(), 2);
    assert_eq!(host.settle(&All), []);
}

#[test]
fn what_only_stands_takes_no_ones_place() {
    let mut host = relay(1);
    host.joined(7);
    host.copied(text(), true);
    host.settle(&All);
    let standing = Announcement { standing: true, ..announcement(50, 5) };
    assert_eq!(host.heard(&7, standing.clone(), &All), Err(Dropped::Standing));
    host.heard(&7, announcement(50, 6), &All).unwrap();
    host.settle(&All);
    // A display that comes later: what was there loses to what has been copied since.
    host.copied(text(), true);
    assert_eq!(host.settle(&All), []);
    // And wins against what only stands.
    let mut host = relay(1);
    host.joined(7);
    host.heard(&7, standing, &All).unwrap();
    host.settle(&All);
    host.copied(text(), true);
    let steps = host.settle(&All);
    assert!(
        matches!(&steps[..], [Step::Show(_), Step::Tell(7, told)] if told.standing),
        "{steps:?}"
    );
    // The peer that comes is told of what stands as such.
    host.joined(8);
    assert!(matches!(&host.settle(&All)[..], [Step::Tell(8, told)] if told.standing));
}

#[test]
fn policy_and_secrets_hold_at_every_step() {
    let (text_only, both): (BTreeSet<_>, BTreeSet<_>) =
        ([Format::Text].into(), [Format::Text, Format::Html].into());
    let mut rules = Rules::default();
    let mut host = relay(1);
    host.joined(7);
    host.joined(8);
    let rich = || Offered { formats: both.clone(), ..text() };
    host.copied(rich(), false);
    assert_eq!(host.settle(&rules), []);
    rules.to.insert(7, text_only.clone());
    let steps = host.settle(&rules);
    assert!(
        matches!(&steps[..], [Step::Tell(7, told)] if told.formats == text_only && told.standing)
    );
    assert_eq!(host.settle(&rules), []);
    rules.to.insert(7, both.clone());
    assert!(matches!(&host.settle(&rules)[..], [Step::Tell(7, told)] if told.formats == both));
    rules.to.clear();
    assert_eq!(host.settle(&rules), [Step::Tell(7, nothing(1, 1))]);

    // A guest that may give nothing changes nothing.
    assert_eq!(host.heard(&8, announcement(60, 1), &rules), Err(Dropped::Forbidden));
    rules.to.insert(7, both.clone());
    assert!(matches!(&host.settle(&rules)[..], [Step::Tell(7, told)] if told.formats == both));
    // What came while it was allowed goes when it is not any more.
    rules.from.insert(8, text_only);
    host.heard(&8, announcement(60, 2), &rules).unwrap();
    assert_eq!(host.settle(&rules).len(), 2);
    rules.from.clear();
    assert_eq!(host.settle(&rules), [Step::Show(nothing(60, 2)), Step::Tell(7, nothing(60, 2))]);

    // Secrets, from here and from there.
    host.copied(rich(), false);
    assert_eq!(host.settle(&rules).len(), 1);
    host.copied(Offered { secret: true, ..rich() }, false);
    assert!(matches!(&host.settle(&rules)[..], [Step::Tell(7, told)] if told.formats.is_empty()));
    rules.from.insert(8, both);
    let secret = Announcement { secret: true, ..announcement(60, 3) };
    assert_eq!(host.heard(&8, secret, &rules), Err(Dropped::Secret));
    assert_eq!(host.settle(&rules), []);
}

#[test]
fn a_peer_cannot_fill_the_memory_nor_silence_another() {
    let mut host = relay(1);
    host.joined(7);
    host.joined(8);
    for count in 0..2000_u64 {
        let mut announcement = announcement(0, u64::MAX - 1);
        let mut origin = [0; 16];
        origin[..8].copy_from_slice(&(count + 1).to_le_bytes());
        announcement.id.origin = Origin::from_bytes(&origin).unwrap();
        host.heard(&7, announcement, &All).unwrap();
        host.settle(&All);
    }
    host.heard(&8, announcement(60, 1), &All).unwrap();
    assert!(matches!(host.settle(&All)[..], [Step::Show(_), Step::Tell(7, _), Step::Tell(8, _)]));
    assert!(format!("{host:?}").len() < 10_000);

    // In the name of the other, whose origin it was told, with the last number there is, and both while the other is
    // there and before it comes again.
    let mut sequence = 1;
    for comes_again in [false, true, false] {
        if comes_again {
            host.left(&8);
            host.settle(&All);
        }
        let _ = host.heard(&7, announcement(60, u64::MAX), &All);
        host.settle(&All);
        if comes_again {
            host.joined(8);
            host.settle(&All);
        }
        for _ in 0..3 {
            sequence += 1;
            assert_eq!(host.heard(&8, announcement(60, sequence), &All), Ok(()), "{sequence}");
            let shown = host.settle(&All).into_iter().next();
            assert_eq!(shown, Some(Step::Show(announcement(60, sequence))));
            let id = announcement(60, sequence).id;
            let source = host.source_for_desktop(Selection::Clipboard, id, Format::Text);
            assert_eq!(source, Some(8));
        }
    }
}

#[test]
fn a_peer_is_not_told_in_the_name_of_a_desktop_it_tells_of_itself() {
    let mut host = relay(1);
    for peer in [7, 8, 9] {
        host.joined(peer);
    }
    host.heard(&8, announcement(60, 1), &All).unwrap();
    host.settle(&All);
    host.heard(&7, announcement(60, 2), &All).unwrap();
    assert_eq!(
        host.settle(&All),
        [
            Step::Show(announcement(60, 2)),
            Step::Tell(7, nothing(60, 1)),
            Step::Tell(9, announcement(60, 2))
        ]
    );
    // So that its own next one is not taken for an echo of it.
    assert_eq!(host.heard(&8, announcement(60, 2), &All), Ok(()));
}

//! The person's word on pastes of a VM whose policy is `ask`. One paste asks for several formats, which are one
//! question. A no holds longer each time, so that a guest that asks and asks does not wear the person out.

use super::audit::Way;
use super::rules::Rules;
use clipboard::Format;
use clipboard_relay::Id;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a word counts for the same content.
const SAME_PASTE: Duration = Duration::from_secs(5);
/// How long the first no counts for everything that goes the same way; each further one holds twice as long.
const FIRST_HOLD: Duration = Duration::from_secs(5);
/// The longest; as long after its end without another no all are forgotten.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// What somebody wants to paste.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) id: Id,
    pub(super) way: Way,
    /// For a person: "text".
    pub(super) what: &'static str,
    /// The VM that gets it, if one does.
    pub(super) taker: Option<String>,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Yes,
    No,
    /// It could not be put: no to this, and no word on what comes later.
    NotAsked,
}

/// What is known without a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The word on the same content.
    Same(bool),
    /// A no that holds.
    Held,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Consent {
    rules: Option<Rules>,
    word: Option<(Wish, bool, Instant)>,
    holds: BTreeMap<Way, Hold>,
}

/// Of the last no.
#[derive(Clone, Copy, Debug)]
struct Hold {
    length: Duration,
    until: Instant,
}

impl Wish {
    pub(super) fn new(id: Id, way: Way, format: Format, taker: Option<&str>) -> Self {
        let what = match format {
            Format::Text | Format::Html => "text",
            Format::Png => "a picture",
            Format::Files => "files",
        };
        Self { id, way, what, taker: taker.map(str::to_owned) }
    }

    /// The question.
    pub(super) fn body(&self) -> String {
        let what = self.what;
        match self.way {
            Way::ToGuest => {
                format!("A program in this VM wants to read {what} copied on the host.")
            }
            Way::ToHost => format!("A program on the host wants to read {what} copied in this VM."),
            Way::Between => {
                let taker = self.taker.as_deref().unwrap_or_default();
                format!("A program in VM {taker:?} wants to read {what} copied in another VM.")
            }
        }
    }
}

impl Consent {
    /// The rules are these now. A person who has changed them has thought about it: every no is forgotten.
    pub(super) fn rules_are(&mut self, rules: &Rules) {
        if self.rules.as_ref() != Some(rules) {
            *self = Self { rules: Some(rules.clone()), ..Self::default() };
        }
    }

    /// What needs no question.
    pub(super) fn known(&self, wish: &Wish, now: Instant) -> Option<Known> {
        if let Some((said, allowed, at)) = &self.word
            && said == wish
            && now.saturating_duration_since(*at) < SAME_PASTE
        {
            return Some(Known::Same(*allowed));
        }
        self.holds.get(&wish.way).filter(|hold| now < hold.until).map(|_| Known::Held)
    }

    /// The person has said something, or could not.
    pub(super) fn said(&mut self, wish: Wish, said: Said, now: Instant) {
        match said {
            Said::Yes => drop(self.holds.remove(&wish.way)),
            Said::No => {
                let before = self.holds.get(&wish.way);
                let before = before.filter(|hold| now < hold.until + LONGEST_HOLD);
                let length = before.map_or(FIRST_HOLD, |hold| (hold.length * 2).min(LONGEST_HOLD));
                self.holds.insert(wish.way, Hold { length, until: now + length });
            }
            Said::NotAsked => {}
        }
        self.word = Some((wish, said == Said::Yes, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clipboard_relay::Origin;
    use definition::ClipboardPolicy;

    fn wish(sequence: u64, way: Way) -> Wish {
        let origin = Origin::from_bytes(&[7; 16]).unwrap();
        Wish::new(Id { origin, sequence }, way, Format::Text, None)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A guest that asks ten times a second, with another copy each time, and a person who says no each time: when
    /// it was asked.
    fn asked(consent: &mut Consent, start: Instant, way: Way, within: u64) -> Vec<u64> {
        let mut asked = Vec::new();
        for tenth in 0..within * 10 {
            let now = start + Duration::from_millis(tenth * 100);
            if consent.known(&wish(tenth, way), now).is_none() {
                consent.said(wish(tenth, way), Said::No, now);
                asked.push(tenth / 10);
            }
        }
        asked
    }

    #[test]
    fn a_no_holds_twice_as_long_each_time_up_to_some_minutes() {
        let mut consent = Consent::default();
        let start = Instant::now();
        let asked = asked(&mut consent, start, Way::ToGuest, 1300);
        assert_eq!(asked, [0, 5, 15, 35, 75, 155, 315, 615, 915, 1215]);
        // The other way is another matter.
        let later = start + seconds(1300);
        assert_eq!(consent.known(&wish(1, Way::ToGuest), later), Some(Known::Held));
        assert_eq!(consent.known(&wish(1, Way::ToHost), later), None);
    }

    #[test]
    fn a_yes_a_pause_and_another_policy_make_it_forgotten() {
        let mut consent = Consent::default();
        let start = Instant::now();
        let (way, copy) = (Way::ToGuest, |number| wish(number, Way::ToGuest));
        let at = |second| start + seconds(second);
        assert_eq!(asked(&mut consent, start, way, 20), [0, 5, 15]);
        assert_eq!(consent.known(&copy(1), at(36)), None);
        consent.said(copy(1), Said::Yes, at(36));
        assert_eq!(consent.known(&copy(1), at(40)), Some(Known::Same(true)));
        assert_eq!(consent.known(&copy(2), at(40)), None);
        assert_eq!(consent.known(&copy(1), at(41)), None);
        assert_eq!(asked(&mut consent, at(100), way, 20), [0, 5, 15]);
        // The last holds until second 135.
        assert_eq!(asked(&mut consent, at(135 + 300), way, 20), [0, 5, 15]);

        let rules = |policy| {
            Rules::new(Some(definition::Clipboard { policy, ..definition::Clipboard::default() }))
        };
        let mut consent = Consent::default();
        consent.rules_are(&rules(ClipboardPolicy::Ask));
        assert_eq!(asked(&mut consent, start, way, 20), [0, 5, 15]);
        consent.rules_are(&rules(ClipboardPolicy::Ask));
        assert_eq!(consent.known(&copy(999), at(20)), Some(Known::Held));
        consent.rules_are(&rules(ClipboardPolicy::Both));
        consent.rules_are(&rules(ClipboardPolicy::Ask));
        assert_eq!(consent.known(&copy(999), at(20)), None);
        assert_eq!(asked(&mut consent, at(20), way, 20), [0, 5, 15]);
    }

    #[test]
    fn what_could_not_be_asked_is_no_word_on_what_comes_later() {
        let mut consent = Consent::default();
        let start = Instant::now();
        consent.said(wish(1, Way::ToHost), Said::NotAsked, start);
        let same = Some(Known::Same(false));
        assert_eq!(consent.known(&wish(1, Way::ToHost), start + seconds(4)), same);
        assert_eq!(consent.known(&wish(2, Way::ToHost), start + seconds(4)), None);
        assert_eq!(consent.known(&wish(1, Way::ToHost), start + seconds(5)), None);
    }
}

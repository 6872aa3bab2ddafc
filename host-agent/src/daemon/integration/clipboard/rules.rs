//! What a definition lets through.

use clipboard::{Format, Selection};
use definition::{ClipboardFormat, ClipboardPolicy};
use std::collections::BTreeSet;

/// The clipboard's part of a definition. One that is gone or broken lets nothing through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Rules(Option<definition::Clipboard>);

impl Rules {
    pub(in crate::daemon) fn new(clipboard: Option<definition::Clipboard>) -> Self {
        Self(clipboard)
    }

    fn formats(&self, selection: Selection, policies: &[ClipboardPolicy]) -> BTreeSet<Format> {
        let open = self.0.as_ref().filter(|rules| {
            policies.contains(&rules.policy) && (selection == Selection::Clipboard || rules.primary)
        });
        open.map(|rules| rules.formats.iter().map(|format| kind(*format)).collect())
            .unwrap_or_default()
    }

    /// From the guest.
    pub(in crate::daemon) fn to_host(&self, selection: Selection) -> BTreeSet<Format> {
        use ClipboardPolicy::{Ask, Both, ToHost};
        self.formats(selection, &[ToHost, Both, Ask])
    }

    /// To the guest.
    pub(in crate::daemon) fn to_guest(&self, selection: Selection) -> BTreeSet<Format> {
        use ClipboardPolicy::{Ask, Both, ToGuest};
        self.formats(selection, &[ToGuest, Both, Ask])
    }

    /// The person is asked at each paste.
    pub(in crate::daemon) fn asks(&self) -> bool {
        self.0.as_ref().is_some_and(|rules| rules.policy == ClipboardPolicy::Ask)
    }
}

fn kind(format: ClipboardFormat) -> Format {
    match format {
        ClipboardFormat::Text => Format::Text,
        ClipboardFormat::Html => Format::Html,
        ClipboardFormat::Image => Format::Png,
        ClipboardFormat::Files => Format::Files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_opens_its_ways_and_no_others() {
        use ClipboardPolicy::{Ask, Both, Off, ToGuest, ToHost};
        for (policy, to_guest, to_host) in [
            (Off, false, false),
            (ToGuest, true, false),
            (ToHost, false, true),
            (Both, true, true),
            (Ask, true, true),
        ] {
            let formats = BTreeSet::from([ClipboardFormat::Image]);
            let rules = Rules::new(Some(definition::Clipboard { policy, formats, primary: false }));
            let image = |open: bool| open.then_some(Format::Png).into_iter().collect();
            assert_eq!(rules.to_guest(Selection::Clipboard), image(to_guest), "{policy:?}");
            assert_eq!(rules.to_host(Selection::Clipboard), image(to_host), "{policy:?}");
            assert_eq!(rules.asks(), policy == Ask);
            assert!(rules.to_guest(Selection::Primary).is_empty());
            assert!(rules.to_host(Selection::Primary).is_empty());
        }
        let all = Rules::new(Some(definition::Clipboard { primary: true, ..Default::default() }));
        assert_eq!(all.to_host(Selection::Primary).len(), 4);
        assert!(Rules::new(None).to_guest(Selection::Clipboard).is_empty());
    }
}

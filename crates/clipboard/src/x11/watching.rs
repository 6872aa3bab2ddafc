//! Who owns the selections, and what they offer: XFixes tells of each new owner, who is then asked for its
//! TARGETS. What a program says comes late or never; it holds up nobody.

use std::time::Instant;

use x11rb::NONE;
use x11rb::protocol::xfixes::{
    ConnectionExt as _, SelectionEvent, SelectionEventMask, SelectionNotifyEvent,
};
use x11rb::protocol::xproto::{Atom, ConnectionExt as _, Timestamp, Window};

use super::reading::{Purpose, Raw};
use super::worker::{Step, Worker, place, said};
use crate::handle::Wanted;
use crate::targets::{Target, formats, is_secret};
use crate::{FetchError, Offered, Selection, limits};

/// One selection.
#[derive(Default)]
pub(super) struct Watch {
    /// Counts the owners.
    number: u64,
    /// When the present one took the selection; 0 when not known.
    since: Timestamp,
    state: State,
    /// When this side gave the selection up, until the server has told of it.
    given_up: Option<Timestamp>,
    /// The last thing that was told, and that it was nothing.
    told_nothing: bool,
    /// The fetch under way. One at a time: there are owners that stop in the middle of a long transfer
    /// when another begins.
    fetching: Option<Window>,
    /// Fetches from this owner that came before it has said what it offers, or during another.
    waiting: Vec<Waiting>,
}

#[derive(Default)]
enum State {
    #[default]
    Nobody,
    Ours,
    /// Asked for targets, or after them for the hint of a secret.
    Asked {
        window: Window,
        told: bool,
        tell_by: Instant,
        targets: Vec<(Atom, &'static Target)>,
    },
    Known(Vec<(Atom, &'static Target)>),
}

struct Waiting {
    wanted: Wanted,
    until: Instant,
}

impl Worker {
    /// The present state, and from now on every change.
    pub(super) fn look(&mut self) -> Step {
        for selection in [Selection::Clipboard, Selection::Primary] {
            let atom = self.atom_of(selection);
            let events = SelectionEventMask::SET_SELECTION_OWNER
                | SelectionEventMask::SELECTION_WINDOW_DESTROY
                | SelectionEventMask::SELECTION_CLIENT_CLOSE;
            self.connection.xfixes_select_selection_input(self.window, atom, events)?;
            let owner = said(self.connection.get_selection_owner(atom)?.reply())?;
            match owner.map_or(NONE, |reply| reply.owner) {
                NONE => self.tell(selection, &[], false),
                _ => self.ask(selection, x11rb::CURRENT_TIME)?,
            }
        }
        Ok(())
    }

    pub(super) fn owner_changed(&mut self, event: &SelectionNotifyEvent) -> Step {
        let Some(selection) = self.selection_of(event.selection) else {
            return Ok(());
        };
        self.replaced(selection)?;
        let set = event.subtype == SelectionEvent::SET_SELECTION_OWNER;
        let watch = &mut self.watches[place(selection)];
        let owner = if set { event.owner } else { NONE };
        if owner == NONE {
            let own = set && watch.given_up.take() == Some(event.selection_timestamp);
            // A program that has ended gives nothing more; what it gave before is read already.
            if event.subtype == SelectionEvent::SELECTION_CLIENT_CLOSE
                && let Some(window) = watch.fetching
            {
                self.end(window, Err(FetchError::Gone))?;
            }
            self.stop_asking(selection)?;
            self.settle(selection, State::Nobody)?;
            if !own {
                self.tell(selection, &[], false);
            }
            return Ok(());
        }
        if owner == self.window {
            self.stop_asking(selection)?;
            return self.settle(selection, State::Ours);
        }
        self.ask(selection, event.selection_timestamp)
    }

    /// Another owner, or the same with something else. Who answers a question that was put to the one before
    /// cannot be told any more: the server may have passed it to the new one, whose content may be a secret that
    /// nobody was told of yet. What the one before has begun to give goes on.
    fn replaced(&mut self, selection: Selection) -> Step {
        let watch = &mut self.watches[place(selection)];
        watch.number += 1;
        for waiting in std::mem::take(&mut watch.waiting) {
            let _ = waiting.wanted.answer.send(Err(FetchError::Gone));
        }
        let fetching = watch.fetching;
        match fetching.filter(|window| !self.has_begun(*window)) {
            Some(window) => self.end(window, Err(FetchError::Gone)),
            None => Ok(()),
        }
    }

    /// Remembers that the next change to nobody may be this side's own.
    pub(super) fn expect_nobody(&mut self, selection: Selection, at: Timestamp) {
        self.watches[place(selection)].given_up = Some(at);
    }

    fn ask(&mut self, selection: Selection, since: Timestamp) -> Step {
        self.stop_asking(selection)?;
        let purpose = Purpose::Targets(selection);
        let window = self.read(selection, purpose, since, vec![(self.atoms.TARGETS, None)])?;
        let watch = &mut self.watches[place(selection)];
        watch.since = since;
        let Some(window) = window else {
            return self.settle(selection, State::Known(Vec::new()));
        };
        let tell_by = Instant::now() + limits::SAYS;
        watch.state = State::Asked { window, told: false, tell_by, targets: Vec::new() };
        Ok(())
    }

    fn stop_asking(&mut self, selection: Selection) -> Step {
        if let State::Asked { window, .. } = self.watches[place(selection)].state {
            self.stop_reading(window)?;
        }
        Ok(())
    }

    /// The owner has said what it offers, or nothing that can be understood.
    pub(super) fn targets_came(
        &mut self,
        selection: Selection,
        raw: Result<Raw, FetchError>,
    ) -> Step {
        // Some programs give TARGETS the type TARGETS, against ICCCM 2.6.2; it must be atoms anyway.
        let named: Vec<Atom> = match raw {
            Ok(raw) if raw.format == 32 => raw
                .bytes
                .as_chunks::<4>()
                .0
                .iter()
                .take(limits::NAMES)
                .map(|atom| Atom::from_ne_bytes(*atom))
                .collect(),
            _ => Vec::new(),
        };
        let known: Vec<_> =
            self.targets.iter().filter(|(atom, _)| named.contains(atom)).copied().collect();
        if !named.contains(&self.hint) {
            return self.known(selection, known, false);
        }
        let since = self.watches[place(selection)].since;
        let hint = vec![(self.hint, None)];
        match self.read(selection, Purpose::Hint(selection), since, hint)? {
            Some(asked) => {
                if let State::Asked { window, targets, .. } =
                    &mut self.watches[place(selection)].state
                {
                    *window = asked;
                    *targets = known;
                }
                Ok(())
            }
            None => self.known(selection, known, true),
        }
    }

    /// What hints at a secret and does not say that it is none counts as one.
    pub(super) fn hint_came(&mut self, selection: Selection, raw: Result<Raw, FetchError>) -> Step {
        let secret = raw.map_or(true, |raw| is_secret(&raw.bytes));
        match &mut self.watches[place(selection)].state {
            State::Asked { targets, .. } => {
                let targets = std::mem::take(targets);
                self.known(selection, targets, secret)
            }
            _ => Ok(()),
        }
    }

    fn known(
        &mut self,
        selection: Selection,
        targets: Vec<(Atom, &'static Target)>,
        secret: bool,
    ) -> Step {
        self.tell(selection, &targets, secret);
        self.settle(selection, State::Known(targets))
    }

    /// A state that fetches can be decided by.
    fn settle(&mut self, selection: Selection, state: State) -> Step {
        let watch = &mut self.watches[place(selection)];
        watch.state = state;
        // What is fetched from the owner before goes on; nobody waits for it.
        watch.fetching = None;
        self.fetch_waiting(selection)
    }

    /// A fetch has ended, however: the next.
    pub(super) fn fetched(&mut self, selection: Selection, window: Window) -> Step {
        let watch = &mut self.watches[place(selection)];
        if watch.fetching != Some(window) {
            return Ok(());
        }
        watch.fetching = None;
        self.fetch_waiting(selection)
    }

    fn fetch_waiting(&mut self, selection: Selection) -> Step {
        for waiting in std::mem::take(&mut self.watches[place(selection)].waiting) {
            self.fetch(waiting.wanted)?;
        }
        Ok(())
    }

    fn tell(&mut self, selection: Selection, targets: &[(Atom, &'static Target)], secret: bool) {
        let watch = &mut self.watches[place(selection)];
        let formats = formats(targets.iter().map(|(_, target)| *target));
        let nothing = formats.is_empty();
        if nothing && watch.told_nothing {
            return;
        }
        watch.told_nothing = nothing;
        let number = watch.number;
        self.ends.changes.put(Offered { selection, number, formats, secret });
    }

    /// Content of another program, once it is known under which names it is offered.
    pub(super) fn fetch(&mut self, wanted: Wanted) -> Step {
        let Wanted { selection, number, format, most, .. } = wanted;
        let watch = &mut self.watches[place(selection)];
        if number != watch.number {
            let _ = wanted.answer.send(Err(FetchError::Gone));
            return Ok(());
        }
        let busy = watch.fetching.is_some() || matches!(watch.state, State::Asked { .. });
        let names: Vec<_> = match &watch.state {
            State::Known(targets) => targets
                .iter()
                .filter(|(_, target)| target.format == format)
                .map(|(atom, target)| (*atom, Some(target.coding)))
                .collect(),
            State::Nobody | State::Ours | State::Asked { .. } => Vec::new(),
        };
        if busy && watch.waiting.len() < limits::FETCHES {
            let asked = watch.fetching.is_none();
            let limit = if asked { limits::FETCH_STILL } else { limits::FETCH };
            let until = Instant::now() + limit;
            watch.waiting.push(Waiting { wanted, until });
        } else if busy {
            let _ = wanted.answer.send(Err(FetchError::Failed("too many at once".to_owned())));
        } else if names.is_empty() {
            let _ = wanted.answer.send(Err(FetchError::Gone));
        } else {
            let since = watch.since;
            let answer = wanted.answer;
            let window = self.read(selection, Purpose::Fetch { most, answer }, since, names)?;
            self.watches[place(selection)].fetching = window;
        }
        Ok(())
    }

    /// An owner that says nothing counts as one that offers nothing; fetches do not wait for ever.
    pub(super) fn expire_watches(&mut self, now: Instant) {
        for selection in [Selection::Clipboard, Selection::Primary] {
            let watch = &mut self.watches[place(selection)];
            for late in watch.waiting.extract_if(.., |waiting| waiting.until <= now) {
                let _ = late.wanted.answer.send(Err(FetchError::Late));
            }
            if let State::Asked { told, tell_by, .. } = &mut watch.state
                && !*told
                && *tell_by <= now
            {
                *told = true;
                self.tell(selection, &[], false);
            }
        }
    }

    pub(super) fn watches_until(&self) -> Option<Instant> {
        self.watches
            .iter()
            .flat_map(|watch| {
                let tell = match &watch.state {
                    State::Asked { told: false, tell_by, .. } => Some(*tell_by),
                    _ => None,
                };
                watch.waiting.iter().map(|waiting| waiting.until).chain(tell)
            })
            .min()
    }
}

//! Others paste what this side offers: each request is answered once, with content or a refusal (ICCCM 2.2).
//! Content is made in a task; the thread goes on.

use std::sync::Arc;

use x11rb::NONE;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConnectionExt as _, EventMask, PropMode, SELECTION_NOTIFY_EVENT,
    SelectionNotifyEvent, SelectionRequestEvent, Timestamp, Window,
};
use x11rb::wrapper::ConnectionExt as _;

use super::worker::{Made, Step, Worker, place, said};
use crate::handle::Command;
use crate::targets::{Coding, Payload, SECRET, given};
use crate::{Content, FetchError, Format, Selection, limits};

/// What another program asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    requestor: Window,
    selection: Atom,
    target: Atom,
    property: Atom,
    time: Timestamp,
    /// Part of a MULTIPLE request.
    group: Option<u64>,
}

/// A MULTIPLE request: answered when all its pairs are.
pub(super) struct Group {
    request: Request,
    pairs: Vec<[Atom; 2]>,
    left: usize,
}

impl Worker {
    pub(super) fn requested(&mut self, event: &SelectionRequestEvent) -> Step {
        let request = Request {
            requestor: event.requestor,
            selection: event.selection,
            target: event.target,
            // Programs before ICCCM name no property.
            property: if event.property == NONE { event.target } else { event.property },
            time: event.time,
            group: None,
        };
        let selection = self.selection_of(event.selection);
        let ours = selection.filter(|selection| self.owned[place(*selection)].is_some());
        match ours {
            Some(selection) if event.owner == self.window && !self.is_own(event.requestor) => {
                if request.target == self.atoms.MULTIPLE {
                    self.multiple(selection, request)
                } else {
                    self.serve(selection, request)
                }
            }
            _ => self.answer(request, false),
        }
    }

    /// The time of the request is not compared with the time the selection was taken: the paste of somebody
    /// who was quicker than the news of a copy elsewhere gets the copy, not nothing.
    fn serve(&mut self, selection: Selection, request: Request) -> Step {
        let Some(owned) = &self.owned[place(selection)] else {
            return self.answer(request, false);
        };
        let offer = &owned.making.offer;
        let target = request.target;
        if target == self.atoms.TARGETS {
            let mut names = vec![self.atoms.TARGETS, self.atoms.TIMESTAMP, self.atoms.MULTIPLE];
            let own = |name: &str| self.targets.iter().find(|(_, known)| known.name == name);
            names
                .extend(given(&offer.formats).filter_map(|target| own(target.name)).map(|it| it.0));
            if offer.formats.contains(&Format::Text) {
                names.push(self.atoms.TEXT);
            }
            if offer.secret {
                names.push(self.hint);
            }
            return self.give_words(request, AtomEnum::ATOM.into(), &names);
        }
        if target == self.atoms.TIMESTAMP {
            return self.give_words(request, AtomEnum::INTEGER.into(), &[owned.since]);
        }
        if target == self.hint && offer.secret {
            return self.give(request, self.hint, Payload::Own(SECRET.to_vec()));
        }
        let Some((_, format)) =
            self.coding_of(target).filter(|(_, format)| offer.formats.contains(format))
        else {
            return self.answer(request, false);
        };
        if self.waiting + self.sendings.len() >= limits::PASTES {
            tracing::debug!("clipboard: too many pastes at once, one is refused");
            return self.answer(request, false);
        }
        self.waiting += 1;
        let making = Arc::clone(&owned.making);
        let outbox = self.ends.outbox.clone();
        self.ends.runtime.spawn(async move {
            let made = making.content(format).await;
            outbox.send(Command::Made(Made { request, made }));
        });
        Ok(())
    }

    /// The content of a request is there, or is not to be had.
    pub(super) fn made(
        &mut self,
        request: Request,
        made: Result<Arc<Content>, FetchError>,
    ) -> Step {
        self.waiting -= 1;
        match (made, self.coding_of(request.target)) {
            (Ok(content), Some((coding, _))) => {
                // TEXT lets the owner choose: ICCCM 2.6.2.
                let text = request.target == self.atoms.TEXT;
                let kind = if text { self.atoms.UTF8_STRING } else { request.target };
                self.give(request, kind, coding.write(content))
            }
            (Err(error), _) => {
                tracing::debug!(%error, "clipboard: a paste gets nothing");
                self.answer(request, false)
            }
            (_, None) => self.answer(request, false),
        }
    }

    fn coding_of(&self, target: Atom) -> Option<(Coding, Format)> {
        if target == self.atoms.TEXT {
            return Some((Coding::Utf8, Format::Text));
        }
        self.targets
            .iter()
            .find(|(atom, known)| *atom == target && known.given)
            .map(|(_, known)| (known.coding, known.format))
    }

    /// Several targets in one request, named in a property of the requestor (ICCCM 2.6.2).
    fn multiple(&mut self, selection: Selection, request: Request) -> Step {
        let words = u32::try_from(limits::PAIRS * 2).unwrap_or(0);
        let any = AtomEnum::ANY;
        let Request { requestor, property, .. } = request;
        let reply =
            said(self.connection.get_property(false, requestor, property, any, 0, words)?.reply())?;
        let words: Vec<Atom> = match &reply {
            Some(reply) if reply.bytes_after == 0 => {
                reply.value32().map(Iterator::collect).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let (pairs, odd) = words.as_chunks::<2>();
        if pairs.is_empty() || !odd.is_empty() || self.groups.len() >= limits::PASTES {
            return self.answer(request, false);
        }
        let group = self.next_group;
        self.next_group += 1;
        let pairs = pairs.to_vec();
        self.groups.insert(group, Group { request, pairs: pairs.clone(), left: pairs.len() });
        for [target, property] in pairs {
            let part = Request { target, property, group: Some(group), ..request };
            if target == NONE || property == NONE || target == self.atoms.MULTIPLE {
                self.answer(part, false)?;
            } else {
                self.serve(selection, part)?;
            }
        }
        Ok(())
    }

    fn give_words(&mut self, request: Request, kind: Atom, words: &[u32]) -> Step {
        let Request { requestor, property, .. } = request;
        self.connection.change_property32(PropMode::REPLACE, requestor, property, kind, words)?;
        self.answer(request, true)
    }

    fn give(&mut self, request: Request, kind: Atom, payload: Payload) -> Step {
        let Request { requestor, property, .. } = request;
        if payload.bytes().len() <= self.piece {
            let bytes = payload.bytes();
            self.connection.change_property8(
                PropMode::REPLACE,
                requestor,
                property,
                kind,
                bytes,
            )?;
            return self.answer(request, true);
        }
        let begun = self.begin_sending(requestor, property, kind, payload)?;
        self.answer(request, begun)
    }

    /// The last word on a request, or on one pair of a MULTIPLE request.
    fn answer(&mut self, request: Request, given: bool) -> Step {
        let Some(group) = request.group else {
            return self.notify(request, given);
        };
        let Some(mut whole) = self.groups.remove(&group) else {
            return Ok(());
        };
        if !given {
            for pair in &mut whole.pairs {
                if *pair == [request.target, request.property] {
                    *pair = [NONE, NONE];
                }
            }
        }
        whole.left = whole.left.saturating_sub(1);
        if whole.left > 0 {
            self.groups.insert(group, whole);
            return Ok(());
        }
        self.connection.change_property32(
            PropMode::REPLACE,
            whole.request.requestor,
            whole.request.property,
            self.atoms.ATOM_PAIR,
            whole.pairs.as_flattened(),
        )?;
        self.notify(whole.request, true)
    }

    fn notify(&self, request: Request, given: bool) -> Step {
        let event = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: request.time,
            requestor: request.requestor,
            selection: request.selection,
            target: request.target,
            property: if given { request.property } else { NONE },
        };
        self.connection.send_event(false, request.requestor, EventMask::NO_EVENT, event)?;
        Ok(())
    }
}

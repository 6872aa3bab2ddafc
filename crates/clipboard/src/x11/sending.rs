//! Content that is too large for one property goes by INCR (ICCCM 2.7.2): a piece, the requestor deletes it,
//! the next, and an empty one last. A requestor that takes nothing, or is gone, ends its transfer.

use std::time::Instant;

use x11rb::protocol::xproto::{
    Atom, ChangeWindowAttributesAux, ConnectionExt as _, EventMask, PropMode, Window,
};
use x11rb::wrapper::ConnectionExt as _;

use super::worker::{Step, Worker};
use crate::limits;
use crate::targets::Payload;

/// One transfer.
pub(super) struct Sending {
    requestor: Window,
    property: Atom,
    kind: Atom,
    payload: Payload,
    /// Bytes that were given.
    at: usize,
    still: Instant,
    until: Instant,
}

impl Worker {
    /// Says how much there is, and waits for the requestor to take that. False when there are too many.
    pub(super) fn begin_sending(
        &mut self,
        requestor: Window,
        property: Atom,
        kind: Atom,
        payload: Payload,
    ) -> Step<bool> {
        self.sendings.retain(|one| (one.requestor, one.property) != (requestor, property));
        if self.sendings.len() >= limits::PASTES {
            return Ok(false);
        }
        // Before the property is set, not to miss its deletion.
        self.listen(requestor, EventMask::PROPERTY_CHANGE | EventMask::STRUCTURE_NOTIFY)?;
        let least = u32::try_from(payload.bytes().len()).unwrap_or(u32::MAX);
        let incr = self.atoms.INCR;
        self.connection.change_property32(
            PropMode::REPLACE,
            requestor,
            property,
            incr,
            &[least],
        )?;
        let now = Instant::now();
        self.sendings.push(Sending {
            requestor,
            property,
            kind,
            payload,
            at: 0,
            still: now + limits::GIVE_STILL,
            until: now + limits::GIVE,
        });
        Ok(true)
    }

    /// A requestor has taken a piece.
    pub(super) fn piece_taken(&mut self, requestor: Window, property: Atom) -> Step {
        let this = |one: &Sending| (one.requestor, one.property) == (requestor, property);
        let Some(place) = self.sendings.iter().position(this) else {
            return Ok(());
        };
        let sending = &mut self.sendings[place];
        let bytes = sending.payload.bytes();
        let end = bytes.len().min(sending.at + self.piece);
        let piece = &bytes[sending.at..end];
        let last = piece.is_empty();
        let kind = sending.kind;
        self.connection.change_property8(PropMode::REPLACE, requestor, property, kind, piece)?;
        sending.at = end;
        sending.still = Instant::now() + limits::GIVE_STILL;
        if last { self.end_sending(place) } else { Ok(()) }
    }

    fn end_sending(&mut self, place: usize) -> Step {
        let requestor = self.sendings.swap_remove(place).requestor;
        if self.sendings.iter().any(|one| one.requestor == requestor) {
            return Ok(());
        }
        self.listen(requestor, EventMask::NO_EVENT)
    }

    /// Each program has a mask of its own on a window: the requestor's is untouched.
    fn listen(&self, requestor: Window, events: EventMask) -> Step {
        let events = ChangeWindowAttributesAux::new().event_mask(events);
        self.connection.change_window_attributes(requestor, &events)?;
        Ok(())
    }

    /// A window is gone, and what was under way to it.
    pub(super) fn requestor_gone(&mut self, requestor: Window) {
        self.sendings.retain(|one| one.requestor != requestor);
    }

    pub(super) fn expire_sendings(&mut self, now: Instant) -> Step {
        while let Some(place) = self.sendings.iter().position(|one| one.still.min(one.until) <= now)
        {
            tracing::debug!("clipboard: a paste is not taken, it ends");
            self.end_sending(place)?;
        }
        Ok(())
    }

    pub(super) fn sendings_until(&self) -> Option<Instant> {
        self.sendings.iter().map(|one| one.still.min(one.until)).min()
    }
}

//! Content that others offer: ConvertSelection to a window of its own, then one property, or many by INCR
//! (ICCCM 2.7.2). The owner may be anything: it answers late, or never, or with more than it says.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::oneshot;
use x11rb::NONE;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConnectionExt as _, GetPropertyReply, SelectionNotifyEvent, Timestamp, Window,
};

use super::worker::{Step, Worker, said};
use crate::targets::Coding;
use crate::{Content, FetchError, Selection, limits};

/// What a reading is for.
pub(super) enum Purpose {
    /// What the owner offers.
    Targets(Selection),
    /// Whether it is a secret.
    Hint(Selection),
    /// Content.
    Fetch { most: usize, answer: oneshot::Sender<Result<Content, FetchError>> },
    /// Nothing any more. ICCCM has no way to stop a transfer, and there are owners that serve nobody else
    /// until one is over: the rest is taken and forgotten, up to so many bytes.
    Drain(usize),
}

/// What came.
pub(super) struct Raw {
    pub(super) bytes: Vec<u8>,
    /// Bits of each item.
    pub(super) format: u8,
}

/// One reading, by its window.
pub(super) struct Reading {
    purpose: Purpose,
    selection: Selection,
    since: Timestamp,
    /// Asked for now.
    name: Atom,
    coding: Option<Coding>,
    /// To ask for when the owner refuses the one before.
    others: VecDeque<(Atom, Option<Coding>)>,
    /// What has come by INCR.
    pieces: Option<Vec<u8>>,
    still: Instant,
    until: Instant,
}

impl Reading {
    /// How many bytes may come.
    fn most(&self) -> usize {
        match &self.purpose {
            Purpose::Targets(_) => limits::NAMES * 4,
            Purpose::Hint(_) => limits::HINT,
            Purpose::Fetch { most, .. } => self.coding.map_or(*most, |coding| coding.most(*most)),
            Purpose::Drain(left) => *left,
        }
    }

    /// What is said to the holder of content that is too large.
    fn large(&self) -> FetchError {
        FetchError::Large(match &self.purpose {
            Purpose::Fetch { most, .. } => *most,
            _ => self.most(),
        })
    }

    fn due(&self) -> Instant {
        self.still.min(self.until)
    }

    fn limit(&self) -> std::time::Duration {
        match &self.purpose {
            Purpose::Targets(_) => limits::SAYS_LATE,
            Purpose::Hint(_) | Purpose::Drain(_) => limits::SAYS,
            Purpose::Fetch { .. } => limits::FETCH_STILL,
        }
    }
}

impl Worker {
    /// Asks the owner for the first of the names. Gives the window; none, with the answer sent, when
    /// there are too many already.
    pub(super) fn read(
        &mut self,
        selection: Selection,
        purpose: Purpose,
        since: Timestamp,
        names: Vec<(Atom, Option<Coding>)>,
    ) -> Step<Option<Window>> {
        let mut others = VecDeque::from(names);
        // Questions of our own have room beyond: there are two of them at most.
        let asked = matches!(purpose, Purpose::Fetch { .. });
        let room = !asked || self.readings.len() < limits::FETCHES + 2;
        let first = others.pop_front().filter(|_| room);
        let window = if first.is_some() { self.new_window()? } else { None };
        let (Some((name, coding)), Some(window)) = (first, window) else {
            if let Purpose::Fetch { answer, .. } = purpose {
                let _ = answer.send(Err(FetchError::Failed("too many at once".to_owned())));
            }
            return Ok(None);
        };
        let now = Instant::now();
        let mut reading = Reading {
            purpose,
            selection,
            since,
            name,
            coding,
            others,
            pieces: None,
            still: now,
            until: now + limits::FETCH,
        };
        reading.still = now + reading.limit();
        self.convert(window, &reading)?;
        self.readings.insert(window, reading);
        Ok(Some(window))
    }

    fn convert(&self, window: Window, reading: &Reading) -> Step {
        let content = self.atoms.MACROHARD_CONTENT;
        let selection = self.atom_of(reading.selection);
        self.connection.convert_selection(
            window,
            selection,
            reading.name,
            content,
            reading.since,
        )?;
        Ok(())
    }

    /// The owner has answered.
    pub(super) fn converted(&mut self, event: &SelectionNotifyEvent) -> Step {
        let window = event.requestor;
        let Some(reading) = self.readings.get_mut(&window) else {
            return Ok(());
        };
        // An answer to what was asked before, or one that nobody asked for.
        if event.target != reading.name || reading.pieces.is_some() {
            return Ok(());
        }
        if event.property == NONE {
            return self.refused(window);
        }
        let most = reading.most();
        let reply = match self.property(window, most, false)? {
            Some(reply) if reply.type_ != NONE => reply,
            _ => return self.refused(window),
        };
        let Some(reading) = self.readings.get_mut(&window) else {
            return Ok(());
        };
        if reply.type_ == self.atoms.INCR {
            // The property says the least number of bytes there will be.
            let least = reply.value32().and_then(|mut value| value.next()).unwrap_or(0);
            reading.pieces = Some(Vec::new());
            reading.still = Instant::now() + limits::FETCH_STILL.min(reading.limit());
            // Its deletion is the owner's sign to begin.
            self.connection.delete_property(window, self.atoms.MACROHARD_CONTENT)?;
            if usize::try_from(least).is_ok_and(|least| least > most) {
                return self.too_large(window);
            }
            return Ok(());
        }
        if reply.bytes_after > 0 || reply.value.len() > most {
            return self.too_large(window);
        }
        // A program may answer a question for text in UTF-8 with Latin-1, by its type.
        if reply.type_ == Atom::from(AtomEnum::STRING) && reading.coding == Some(Coding::Utf8) {
            reading.coding = Some(Coding::Plain);
        }
        self.end(window, Ok(Raw { bytes: reply.value, format: reply.format }))
    }

    /// A property of a window that fetches has changed.
    pub(super) fn piece_came(&mut self, window: Window, property: Atom) -> Step {
        let Some(Reading { pieces: Some(pieces), purpose, .. }) = self.readings.get(&window) else {
            return Ok(());
        };
        if property != self.atoms.MACROHARD_CONTENT {
            return Ok(());
        }
        if let Purpose::Drain(left) = *purpose {
            return self.drain(window, left);
        }
        let have = pieces.len();
        let most = self.readings[&window].most();
        // Deleted by the server when all of it was read, which tells the owner to go on.
        let reply = match self.property(window, most.saturating_sub(have), true)? {
            Some(reply) if reply.type_ != NONE => reply,
            // Read already, with what this event told of.
            _ => return Ok(()),
        };
        let Some(reading) = self.readings.get_mut(&window) else {
            return Ok(());
        };
        if reply.bytes_after > 0 || have + reply.value.len() > most {
            if reply.bytes_after > 0 {
                self.connection.delete_property(window, property)?;
            }
            return self.too_large(window);
        }
        let Some(pieces) = &mut reading.pieces else {
            return Ok(());
        };
        if reply.value.is_empty() {
            let bytes = std::mem::take(pieces);
            return self.end(window, Ok(Raw { bytes, format: reply.format }));
        }
        pieces.extend(reply.value);
        reading.still = Instant::now() + limits::FETCH_STILL.min(reading.limit());
        if matches!(&reading.purpose, Purpose::Fetch { answer, .. } if answer.is_closed()) {
            reading.purpose = Purpose::Drain(limits::DRAIN);
            reading.pieces = Some(Vec::new());
        }
        Ok(())
    }

    fn too_large(&mut self, window: Window) -> Step {
        let Some(reading) = self.readings.get_mut(&window) else {
            return Ok(());
        };
        let large = reading.large();
        let fetches = matches!(reading.purpose, Purpose::Fetch { .. });
        let Some(pieces) = reading.pieces.as_mut().filter(|_| fetches) else {
            return self.end(window, Err(large));
        };
        *pieces = Vec::new();
        reading.until = Instant::now() + limits::FETCH_STILL;
        let purpose = std::mem::replace(&mut reading.purpose, Purpose::Drain(limits::DRAIN));
        reading.still = Instant::now() + reading.limit();
        if let Purpose::Fetch { answer, .. } = purpose {
            let _ = answer.send(Err(large));
        }
        Ok(())
    }

    fn drain(&mut self, window: Window, left: usize) -> Step {
        let reply = match self.property(window, 0, false)? {
            Some(reply) if reply.type_ != NONE => reply,
            _ => return Ok(()),
        };
        self.connection.delete_property(window, self.atoms.MACROHARD_CONTENT)?;
        let came = usize::try_from(reply.bytes_after).unwrap_or(left) + reply.value.len();
        match self.readings.get_mut(&window) {
            Some(reading) if came > 0 && came < left => {
                reading.purpose = Purpose::Drain(left - came);
                reading.still = Instant::now() + reading.limit();
                Ok(())
            }
            _ => self.stop_reading(window),
        }
    }

    /// At most a little more than `most` bytes of what was put there.
    fn property(
        &self,
        window: Window,
        most: usize,
        delete: bool,
    ) -> Step<Option<GetPropertyReply>> {
        let content = self.atoms.MACROHARD_CONTENT;
        let words = u32::try_from(most / 4 + 1).unwrap_or(u32::MAX);
        let any = AtomEnum::ANY;
        said(self.connection.get_property(delete, window, content, any, 0, words)?.reply())
    }

    /// The owner does not give what was asked for: the next name, if there is one.
    fn refused(&mut self, window: Window) -> Step {
        let Some(mut reading) = self.readings.remove(&window) else {
            return Ok(());
        };
        let next = reading.others.pop_front();
        if let Some((name, coding)) = next {
            reading.name = name;
            reading.coding = coding;
            reading.still = Instant::now() + reading.limit();
            self.convert(window, &reading)?;
        }
        self.readings.insert(window, reading);
        if next.is_none() { self.end(window, Err(FetchError::Gone)) } else { Ok(()) }
    }

    /// Gives the result to whoever wants it.
    pub(super) fn end(&mut self, window: Window, raw: Result<Raw, FetchError>) -> Step {
        let Some(reading) = self.readings.remove(&window) else {
            return Ok(());
        };
        self.connection.destroy_window(window)?;
        match reading.purpose {
            Purpose::Targets(selection) => self.targets_came(selection, raw),
            Purpose::Hint(selection) => self.hint_came(selection, raw),
            Purpose::Fetch { most, answer } => {
                let content = raw.and_then(|raw| match reading.coding {
                    Some(coding) => coding.read(raw.bytes, most),
                    None => Ok(Content::Bytes(raw.bytes)),
                });
                let _ = answer.send(content);
                self.fetched(reading.selection, window)
            }
            Purpose::Drain(_) => self.fetched(reading.selection, window),
        }
    }

    /// The owner has answered, and gives the rest by INCR.
    pub(super) fn has_begun(&self, window: Window) -> bool {
        self.readings.get(&window).is_some_and(|reading| reading.pieces.is_some())
    }

    /// Nobody wants it any more.
    pub(super) fn stop_reading(&mut self, window: Window) -> Step {
        let Some(reading) = self.readings.remove(&window) else {
            return Ok(());
        };
        self.connection.destroy_window(window)?;
        self.fetched(reading.selection, window)
    }

    pub(super) fn expire_readings(&mut self, now: Instant) -> Step {
        let late: Vec<Window> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.due() <= now)
            .map(|(window, _)| *window)
            .collect();
        for window in late {
            self.end(window, Err(FetchError::Late))?;
        }
        Ok(())
    }

    pub(super) fn readings_until(&self) -> Option<Instant> {
        self.readings.values().map(Reading::due).min()
    }
}

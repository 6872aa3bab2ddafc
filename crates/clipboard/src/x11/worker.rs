//! The thread: its state, its loop, and where events and commands go.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use x11rb::connection::{Connection as _, RequestConnection as _};
use x11rb::errors::{ConnectionError, ReplyError, ReplyOrIdError};
use x11rb::protocol::xfixes::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    Atom, ConnectionExt as _, CreateWindowAux, EventMask, Property, Timestamp, Window, WindowClass,
};
use x11rb::protocol::{ErrorKind, Event};
use x11rb::rust_connection::RustConnection;

use super::owning::{Acquiring, Owned};
use super::reading::Reading;
use super::sending::Sending;
use super::serving::{Group, Request};
use super::watching::Watch;
use crate::handle::{Command, Ends, Setup};
use crate::targets::{HINT, TARGETS, Target};
use crate::{Content, FetchError, Selection};

// MACROHARD_CONTENT is where content comes to, on the windows that fetch; MACROHARD_TIME is changed to
// learn the server's time. The others are ICCCM's.
x11rb::atom_manager! {
    pub(super) Atoms:
    AtomsCookie {
        CLIPBOARD,
        TARGETS,
        TIMESTAMP,
        MULTIPLE,
        ATOM_PAIR,
        INCR,
        TEXT,
        UTF8_STRING,
        MACROHARD_CONTENT,
        MACROHARD_TIME,
    }
}

/// In one property at most, also where the server would take more: it copies a property in one go, and
/// serves nobody else meanwhile. All text that is allowed fits: piece by piece, each wakes the server, who pastes
/// and this thread in turn.
const PIECE: usize = 1 << 20;
/// Events that are handled before commands and clocks are looked at again.
const BURST: usize = 256;

/// Content that a task has made for a paste.
pub(super) struct Made {
    pub(super) request: Request,
    pub(super) made: Result<Arc<Content>, FetchError>,
}

/// The connection is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Poll(#[from] io::Error),
}

/// A step that fails only with the connection.
pub(super) type Step<T = ()> = Result<T, Lost>;

pub(super) struct Worker {
    pub(super) connection: RustConnection,
    pub(super) atoms: Atoms,
    /// The atoms of [`TARGETS`], in its order.
    pub(super) targets: Vec<(Atom, &'static Target)>,
    pub(super) hint: Atom,
    pub(super) root: Window,
    /// Owns selections; changes its property to learn the time.
    pub(super) window: Window,
    /// In one property at most.
    pub(super) piece: usize,
    pub(super) ends: Ends<Made>,
    pub(super) watches: [Watch; 2],
    pub(super) readings: HashMap<Window, Reading>,
    pub(super) acquiring: Vec<Acquiring>,
    pub(super) owned: [Option<Owned>; 2],
    pub(super) waiting: usize,
    pub(super) groups: HashMap<u64, Group>,
    pub(super) next_group: u64,
    pub(super) sendings: Vec<Sending>,
}

impl Worker {
    /// Sets everything up and asks for the present state.
    pub(super) fn new(
        connection: RustConnection,
        screen: usize,
        ends: Ends<Made>,
    ) -> Result<Self, Setup> {
        let refused = |error: ReplyOrIdError| Setup::Refused(error.to_string());
        let present = connection
            .extension_information(xfixes::X11_EXTENSION_NAME)
            .map_err(|error| refused(error.into()))?;
        if present.is_none() {
            return Err(Setup::Lacks("the extension XFIXES"));
        }
        let root = connection.setup().roots[screen].root;
        Self::start(connection, root, ends).map_err(refused)
    }

    fn start(
        connection: RustConnection,
        root: Window,
        ends: Ends<Made>,
    ) -> Result<Self, ReplyOrIdError> {
        // Events of selections came with version 1, and no request before the version is agreed on.
        connection.xfixes_query_version(5, 0)?.reply()?;
        let atoms = Atoms::new(&connection)?.reply()?;
        let names = TARGETS.iter().map(|target| target.name).chain([HINT]);
        let cookies = names
            .map(|name| connection.intern_atom(false, name.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let interned = cookies
            .into_iter()
            .map(|cookie| cookie.reply().map(|reply| reply.atom))
            .collect::<Result<Vec<_>, _>>()?;
        let hint = interned[TARGETS.len()];
        let targets = interned.into_iter().zip(&TARGETS).collect();
        // Asked for once here, because the answer is waited for.
        let piece = PIECE.min(connection.maximum_request_bytes().saturating_sub(64));
        let window = connection.generate_id()?;
        hidden(&connection, window, root)?.check()?;
        let mut worker = Self {
            connection,
            atoms,
            targets,
            hint,
            root,
            window,
            piece,
            ends,
            watches: Default::default(),
            readings: HashMap::new(),
            acquiring: Vec::new(),
            owned: [None, None],
            waiting: 0,
            groups: HashMap::new(),
            next_group: 0,
            sendings: Vec::new(),
        };
        worker.look().map_err(|lost| match lost {
            Lost::Connection(error) => ReplyOrIdError::from(error),
            Lost::Poll(error) => ReplyOrIdError::from(ConnectionError::from(error)),
        })?;
        Ok(worker)
    }

    /// Until the holder lets go.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn run(mut self) -> Step {
        loop {
            while let Some(command) = self.ends.inbox.take() {
                match command {
                    Command::Fetch(wanted) => self.fetch(wanted)?,
                    Command::Offer { selection, offer, answer } => {
                        self.acquire(selection, offer, answer)?;
                    }
                    Command::Clear { selection, answer } => {
                        self.give_up(selection)?;
                        let _ = answer.send(Ok(()));
                    }
                    Command::Made(Made { request, made }) => self.made(request, made)?,
                    Command::End => return Ok(()),
                }
            }
            let mut more = true;
            for _ in 0..BURST {
                match self.connection.poll_for_event()? {
                    Some(event) => self.event(event)?,
                    None => {
                        more = false;
                        break;
                    }
                }
            }
            let now = Instant::now();
            self.expire_readings(now)?;
            self.expire_watches(now);
            self.expire_sendings(now)?;
            self.connection.flush()?;
            // Waiting for a reply, or flushing, may have read events, which no socket announces again.
            if more {
                continue;
            }
            if let Some(event) = self.connection.poll_for_event()? {
                self.event(event)?;
                continue;
            }
            let until = [self.readings_until(), self.watches_until(), self.sendings_until()];
            let until = until.into_iter().flatten().min();
            self.ends.inbox.wait(std::os::fd::AsFd::as_fd(self.connection.stream()), until)?;
        }
    }

    fn event(&mut self, event: Event) -> Step {
        match event {
            Event::XfixesSelectionNotify(event) => self.owner_changed(&event),
            Event::SelectionNotify(event) => self.converted(&event),
            Event::SelectionRequest(event) => self.requested(&event),
            Event::SelectionClear(event) => {
                self.lost_to_other(event.selection, event.time);
                Ok(())
            }
            Event::PropertyNotify(event) => match event.state {
                Property::NEW_VALUE if event.window == self.window => {
                    if event.atom == self.atoms.MACROHARD_TIME {
                        self.time_is(event.time)?;
                    }
                    Ok(())
                }
                Property::NEW_VALUE => self.piece_came(event.window, event.atom),
                Property::DELETE => self.piece_taken(event.window, event.atom),
                _ => Ok(()),
            },
            Event::DestroyNotify(event) => {
                self.requestor_gone(event.window);
                Ok(())
            }
            Event::Error(error) => {
                // A requestor's window that is gone: usual. Everything else would be ours.
                if error.error_kind == ErrorKind::Window {
                    self.requestor_gone(error.bad_value);
                } else {
                    tracing::debug!(?error, "clipboard: the X server refuses a request");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A window of this connection.
    pub(super) fn is_own(&self, window: Window) -> bool {
        window == self.window || self.readings.contains_key(&window)
    }

    /// A window to fetch with; none when the server has no names left.
    pub(super) fn new_window(&self) -> Step<Option<Window>> {
        let window = match self.connection.generate_id() {
            Ok(window) => window,
            Err(ReplyOrIdError::ConnectionError(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        hidden(&self.connection, window, self.root)?.ignore_error();
        Ok(Some(window))
    }

    pub(super) fn atom_of(&self, selection: Selection) -> Atom {
        match selection {
            Selection::Clipboard => self.atoms.CLIPBOARD,
            Selection::Primary => x11rb::protocol::xproto::AtomEnum::PRIMARY.into(),
        }
    }

    pub(super) fn selection_of(&self, atom: Atom) -> Option<Selection> {
        [Selection::Clipboard, Selection::Primary]
            .into_iter()
            .find(|selection| self.atom_of(*selection) == atom)
    }
}

/// Where one selection's state is in arrays.
pub(super) fn place(selection: Selection) -> usize {
    match selection {
        Selection::Clipboard => 0,
        Selection::Primary => 1,
    }
}

/// Which of two times of the server is earlier: they wrap after 49 days.
pub(super) fn is_before(one: Timestamp, other: Timestamp) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

/// What the server says; nothing when it refuses, as for a window that is gone.
pub(super) fn said<T>(reply: Result<T, ReplyError>) -> Step<Option<T>> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(ReplyError::X11Error(_)) => Ok(None),
        Err(ReplyError::ConnectionError(error)) => Err(error.into()),
    }
}

/// A window that is never mapped; its properties are watched.
fn hidden(
    connection: &RustConnection,
    window: Window,
    root: Window,
) -> Result<x11rb::cookie::VoidCookie<'_, RustConnection>, ConnectionError> {
    let watched = CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE);
    connection.create_window(0, window, root, -1, -1, 1, 1, 0, WindowClass::INPUT_ONLY, 0, &watched)
}

#[cfg(test)]
mod tests {
    use super::is_before;

    #[test]
    fn times_wrap() {
        assert!(is_before(1, 2) && !is_before(2, 1) && !is_before(3, 3));
        assert!(is_before(u32::MAX, 5) && !is_before(5, u32::MAX));
    }
}

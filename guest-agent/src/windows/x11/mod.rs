//! Windows of an X11 session: the agent is its window manager.
//!
//! The root window's children are redirected (Composite), so that each has its own pixels wherever it lies
//! and nothing is painted on the screen. Nothing is reparented: frames are the host's. DAMAGE says what
//! changed, MIT-SHM copies it straight into window memory, XTEST types and points.
//!
//! Every other program of the session may be hostile, and any window may be gone at any moment: errors of
//! single requests are normal and leave the rest as it is. Only the end of the connection ends this
//! ([`Lost`]).

mod atoms;
mod bare;
mod capture;
mod client;
mod cursor;
mod desktop;
mod events;
mod input;
mod keyboard;
mod manager;
mod monitors;
mod orders;
mod outputs;
pub mod parse;
mod pixmaps;
mod properties;
mod resizing;
mod role;
pub mod server;
mod settings;
mod states;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use proto::v1::{Extents, Monitor, from_host};
use window_memory::WindowMemory;
use x11rb::connection::Connection;
use x11rb::errors::{ConnectionError, ReplyError, ReplyOrIdError};
use x11rb::protocol::Event;
use x11rb::protocol::shm::Seg;
use x11rb::protocol::xproto::{Atom, ConnectionExt as _, Timestamp, Window};
use x11rb::rust_connection::RustConnection;

use self::atoms::Atoms;
use self::client::Client;
use self::desktop::Desktop;
use self::input::Input;
use self::server::{Connected, Place, ServerError};
use super::screen::{Capture, Lost, Screen};
use super::telling::Teller;

/// Events handled before the host has its turn again.
const TURN: usize = 2048;

/// Why the windows of a session cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No X server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The X server lacks what this needs.
    #[error("the X server {display} lacks {lacks}")]
    Lacks {
        /// Which.
        display: String,
        /// An extension or a kind of pixels.
        lacks: &'static str,
    },
    /// It has a window manager.
    #[error("the X server {0} has a window manager already")]
    Managed(String),
    /// It is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// See the module.
#[derive(Debug)]
pub struct X11 {
    x: RustConnection,
    display: String,
    authority: Option<PathBuf>,
    /// With the files of the agent's own server.
    folder: Option<PathBuf>,
    root: Window,
    screen: usize,
    /// Size of the root window.
    size: (u16, u16),
    /// Largest that the server can make it.
    most: (u16, u16),
    atoms: Atoms,
    /// The agent's window: shows that there is a window manager, has the focus when no other has it, and gives
    /// the server's time.
    own: Window,
    /// An invisible window over all others, mapped while the pointer is not over the guest's windows.
    shield: Window,
    memory: Arc<WindowMemory>,
    segment: Option<Seg>,
    clients: BTreeMap<Window, Client>,
    /// Those of which something changed.
    dirty: BTreeSet<Window>,
    /// Those for which the host has no room yet.
    waiting: BTreeSet<Window>,
    /// The server counts for programs (SYNC).
    counts: bool,
    /// Those that draw a size that they were just given.
    awaiting: BTreeSet<Window>,
    /// In the order in which they came.
    order: Vec<Window>,
    /// Read while something else was awaited.
    backlog: VecDeque<Event>,
    input: Input,
    focused: Window,
    /// Of the last window that the host framed: new windows will have the same.
    frame: Extents,
    /// The host's, as they lie on this screen.
    monitors: Vec<Monitor>,
    /// Where the screen begins on the host: monitors may be left of or above what the host calls 0,0.
    origin: (i32, i32),
    cursor: cursor::Shown,
    desktop: Desktop,
    settings: settings::Settings,
    names: BTreeMap<Atom, u8>,
    /// Everything is being told.
    all: bool,
    /// The list of clients on the root window is out of date.
    listed: bool,
    rung: bool,
}

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        Self(error.to_string())
    }
}

impl From<ReplyOrIdError> for Lost {
    fn from(error: ReplyOrIdError) -> Self {
        Self(error.to_string())
    }
}

/// The answer; none when the request was refused, as it is for a window that is gone.
fn answer<T>(reply: Result<T, ReplyError>) -> Result<Option<T>, Lost> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(ReplyError::X11Error(error)) => {
            tracing::trace!(?error, "the X server refuses");
            Ok(None)
        }
        Err(ReplyError::ConnectionError(error)) => Err(error.into()),
    }
}

impl X11 {
    /// Connects to the X server and becomes its window manager. Pixels will go to `memory`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(place: &Place, memory: Arc<WindowMemory>) -> Result<Self, StartError> {
        let Connected { connection: x, screen, display, authority, folder } =
            server::connect(place)?;
        folder.as_deref().map(manager::end_left);
        let role = role::take(&x, screen, &display)?;
        let segment = capture::attach(&x, &memory)?;
        let setup = &x.setup().roots[screen];
        let (root, size) = (setup.root, (setup.width_in_pixels, setup.height_in_pixels));
        let mut this = Self {
            root,
            screen,
            size,
            most: size,
            display,
            authority,
            folder,
            atoms: role.atoms,
            own: role.own,
            shield: role.shield,
            memory,
            segment,
            clients: BTreeMap::new(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            counts: resizing::begin(&x)?,
            awaiting: BTreeSet::new(),
            order: Vec::new(),
            backlog: VecDeque::new(),
            input: Input::default(),
            focused: 0,
            frame: Extents::default(),
            monitors: Vec::new(),
            origin: (0, 0),
            cursor: cursor::Shown::default(),
            desktop: Desktop::default(),
            settings: settings::Settings::default(),
            names: BTreeMap::new(),
            all: false,
            listed: false,
            rung: false,
            x,
        };
        this.names = properties::names(&this.atoms);
        this.announce()?;
        this.begin_monitors()?;
        this.begin_outputs()?;
        this.begin_settings()?;
        this.begin_keyboard()?;
        this.begin_cursor()?;
        this.adopt_all()?;
        this.x.flush().map_err(Lost::from)?;
        Ok(this)
    }

    /// For `$DISPLAY` of programs whose windows are to be told.
    #[must_use]
    pub fn display(&self) -> &str {
        &self.display
    }

    /// For `$XAUTHORITY` of such programs; none where that of this process does.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// Whether an id is one of this connection's.
    fn is_own(&self, window: Window) -> bool {
        let setup = self.x.setup();
        window & !setup.resource_id_mask == setup.resource_id_base
    }

    /// The server's time now. What it says meanwhile is kept for later.
    fn time(&mut self) -> Result<Timestamp, Lost> {
        use x11rb::protocol::xproto::{AtomEnum, PropMode};
        let atom = self.atoms._MACROHARD_TIME;
        self.x.change_property(PropMode::APPEND, self.own, atom, AtomEnum::INTEGER, 8, 0, &[])?;
        self.x.flush()?;
        loop {
            match self.x.wait_for_event()? {
                Event::PropertyNotify(event) if event.window == self.own && event.atom == atom => {
                    return Ok(event.time);
                }
                other => self.backlog.push_back(other),
            }
        }
    }

    fn touch(&mut self, window: Window, what: u32) {
        if let Some(client) = self.clients.get_mut(&window) {
            client.dirty |= what;
            self.dirty.insert(window);
        }
    }
}

impl Screen for X11 {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.x.stream().as_fd()
    }

    fn attend(&mut self, teller: &mut Teller) -> Result<bool, Lost> {
        for _ in 0..TURN {
            let event = match self.backlog.pop_front() {
                Some(event) => Some(event),
                None => self.x.poll_for_event()?,
            };
            let Some(event) = event else {
                self.lose_patience()?;
                self.look_after_manager(teller)?;
                return Ok(false);
            };
            self.handle(event, teller)?;
        }
        Ok(true)
    }

    fn refresh(&mut self, teller: &mut Teller) -> Result<(), Lost> {
        if std::mem::take(&mut self.listed) {
            self.list()?;
        }
        if !teller.ready() {
            return Ok(());
        }
        self.tell_cursor(teller)?;
        if std::mem::take(&mut self.rung) {
            teller.bell();
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        if !dirty.is_empty() {
            // In the order of the stack, as far as that is known: the host opens windows so.
            let first = std::mem::take(&mut self.desktop.active);
            let order: Vec<Window> = std::iter::once(&first).chain(&self.order).copied().collect();
            for window in order {
                if dirty.remove(&window) {
                    self.tell(window, teller)?;
                }
            }
        }
        if std::mem::take(&mut self.all) {
            teller.told();
        }
        Ok(())
    }

    fn obey(&mut self, order: from_host::Message, teller: &mut Teller) -> Result<(), Lost> {
        self.carry_out(order, teller)
    }

    fn flush(&mut self) -> Result<bool, Lost> {
        self.x.flush()?;
        if self.backlog.is_empty() {
            self.backlog.extend(self.x.poll_for_event()?);
        }
        Ok(!self.backlog.is_empty())
    }

    fn deadline(&self) -> Option<Instant> {
        [self.patience(), self.desktop.deadline()].into_iter().flatten().min()
    }

    fn settle(&mut self) -> Result<(), Lost> {
        answer(self.x.get_input_focus()?.reply())?;
        Ok(())
    }

    fn tell_all(&mut self, _: &mut Teller) -> Result<(), Lost> {
        self.all = true;
        self.cursor.changed = true;
        self.waiting.clear();
        for client in self.clients.values_mut() {
            client.dirty = client::ALL;
            client.renew = true;
        }
        self.dirty = self.clients.keys().copied().collect();
        Ok(())
    }

    fn capture(&mut self, captures: &[Capture<'_>]) -> Result<Vec<bool>, Lost> {
        self.copy(captures)
    }

    fn release(&mut self) -> Result<(), Lost> {
        self.release_all()?;
        if !self.desktop.is_on() {
            self.focus(0)?;
        }
        self.x.flush()?;
        Ok(())
    }
}

//! The state of a guest's windows, made from messages that are not trusted. Pure: no input, no output, no
//! clock. What is to happen comes out as [`Act`]s; what the desktop reports goes in as [`Seen`].
//!
//! Called by `app` alone. It never hands on a number that was not checked, never lets a guest name a
//! window but its own, and holds a bounded amount whatever comes.

mod cover;
mod damage;
mod pace;
mod place;
mod present;
mod record;
mod rect;
mod refusals;
mod report;
mod small;
mod text;
mod untrusted;
mod view;
mod wish;

pub use damage::bounded;
pub use record::{Hints, Kind, Record, State};
pub use rect::{Insets, Rect};
pub use refusals::{Refusal, Refusals};
pub use report::Seen;
pub use small::{CursorPicture, Icon};
pub use untrusted::Untrusted;
pub use view::{View, border};

use proto::v1::{self, FromGuest, from_guest, from_host};
use std::collections::BTreeMap;
use std::time::Duration;
use window_link::limits;
use window_memory::{Area, Picture};

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Open a window of the desktop.
    Open(u32, Box<View>),
    /// Make it so.
    Change(u32, Box<View>),
    /// As `Change`, where what has changed is fixed when a window is opened: by another window of the desktop.
    Reopen(u32, Box<View>),
    /// Close it.
    Shut(u32),
    /// Give it this icon.
    Icon(u32, Icon),
    /// What the pointer looks like over all windows.
    Cursor(CursorPicture),
    /// Put it on top.
    Raise(u32),
    /// Give it the keyboard.
    Activate(u32),
    /// Let the user move or resize it with the pointer.
    MoveResize(u32, v1::MoveResizeDirection),
    /// Ring.
    Bell,
    /// Copy and draw these parts of a picture, then [`Model::painted`].
    Paint {
        /// Of this window.
        window: u32,
        /// Proven to lie in window memory.
        picture: Picture,
        /// Inside the picture, not empty.
        damage: Vec<Area>,
        /// Of the present.
        sequence: u64,
    },
    /// Say it to the guest.
    Tell(from_host::Message),
}

/// The guest cannot be listened to any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// It did not begin with its hello.
    #[error("the guest's first message is no hello")]
    NoHello,
    /// It speaks otherwise.
    #[error("the guest speaks version {0} of the window protocol; this side {version}", version = window_link::VERSION)]
    Version(u32),
}

/// A monitor, for what a guest may cover and how thick borders are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// On the desktop.
    pub rect: Rect,
    /// Percent.
    pub scale: u32,
}

/// A window of the guest.
#[derive(Debug)]
struct Window {
    record: Record,
    generation: u64,
    /// Generation of the last `Configure` that was sent.
    sent: u64,
    /// What guest and host agree on: the guest's window, its shadow included.
    rect: Rect,
    state: State,
    /// As the host last reported and the guest was told.
    frame: Insets,
    hidden: bool,
    reported: bool,
    /// Told again since the last `Resync`.
    told: bool,
    /// As the desktop was last asked to show it; `None` while it is refused.
    shown: Option<Box<View>>,
    /// The record has changed since.
    dirty: bool,
    /// It is to be opened when the guest may have more opened.
    waits: bool,
    /// That it waited is counted.
    counted: bool,
    presents: present::Presents,
}

/// All windows of one guest.
#[derive(Debug)]
pub struct Model {
    vm: String,
    /// Bytes of window memory.
    memory: u64,
    screens: Vec<Screen>,
    /// The desktop puts titles over windows.
    titles: bool,
    hello: bool,
    /// The desktop shows the guest's screen instead of its windows.
    hiding: bool,
    windows: BTreeMap<u32, Window>,
    focus: Option<u32>,
    /// Buttons that the host knows to be pressed, by window.
    pressed: report::Pressed,
    /// The window that the pointer is over, and whether it is over what the guest drew.
    pointer: Option<(u32, bool)>,
    user: wish::User,
    openings: pace::Openings,
    refusals: Refusals,
    acts: Vec<Act>,
}

impl Model {
    /// Of the VM `vm`, whose window memory has `memory` bytes.
    #[must_use]
    pub fn new(vm: &str, memory: u64) -> Self {
        Self {
            vm: text::line(vm, limits::TITLE).0,
            memory,
            screens: Vec::new(),
            titles: true,
            hello: false,
            hiding: false,
            windows: BTreeMap::new(),
            focus: None,
            pressed: report::Pressed::default(),
            pointer: None,
            user: wish::User::default(),
            openings: pace::Openings::default(),
            refusals: Refusals::default(),
            acts: Vec::new(),
        }
    }

    /// What was refused so far.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Counts what was refused outside: by the clock, or by the desktop.
    pub fn refuse(&mut self, refusal: Refusal, what: impl std::fmt::Display) {
        self.refusals.count(refusal, what);
    }

    /// Bytes of the window memory that pictures are checked against from now on.
    pub fn set_memory(&mut self, bytes: u64) {
        self.memory = bytes;
    }

    /// The VM's name from now on.
    pub fn set_vm(&mut self, vm: &str) {
        self.vm = text::line(vm, limits::TITLE).0;
        for window in self.windows.values_mut() {
            window.dirty = true;
        }
    }

    /// Shows windows, or none while the guest's screen is shown; the guest is to be told the mode before.
    pub fn show_windows(&mut self, show: bool) {
        if self.hiding != show {
            return;
        }
        self.hiding = !show;
        if show {
            // It is the user who wants windows again.
            self.launched();
        }
        let ids: Vec<u32> = self.windows.keys().copied().collect();
        for id in ids {
            if show {
                self.show(id);
            } else if let Some(window) = self.windows.get_mut(&id)
                && window.shown.take().is_some()
            {
                self.acts.push(Act::Shut(id));
                self.pressed.forget(id);
            }
        }
        if !show {
            self.focus = None;
            self.user.leave();
        }
    }

    /// The guest has said hello.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.hello
    }

    /// Windows that are shown, lowest id first.
    pub fn shown(&self) -> impl Iterator<Item = (u32, &View)> {
        self.windows.iter().filter_map(|(id, window)| Some((*id, window.shown.as_deref()?)))
    }

    /// The window that has the keyboard.
    #[must_use]
    pub fn focus(&self) -> Option<u32> {
        self.focus
    }

    /// The monitors have changed.
    pub fn set_screens(&mut self, screens: &[Screen]) {
        screens.clone_into(&mut self.screens);
        for window in self.windows.values_mut() {
            window.dirty = true;
        }
    }

    /// Whether the desktop puts titles over windows; where it does not, borders say the VM's name.
    pub fn set_titles(&mut self, titles: bool) {
        self.titles = titles;
        for window in self.windows.values_mut() {
            window.dirty = true;
        }
    }

    /// What is to be done since the last call: first what was said, then windows that have changed.
    pub fn acts(&mut self) -> Vec<Act> {
        let dirty: Vec<u32> = self
            .windows
            .iter()
            .filter(|(_, window)| window.dirty || window.waits)
            .map(|(id, _)| *id)
            .collect();
        for id in dirty {
            self.show(id);
        }
        std::mem::take(&mut self.acts)
    }

    /// When windows that wait may be opened, if any do: [`Model::pass`] then, and [`Model::acts`].
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let waits = !self.hiding && self.windows.values().any(|window| window.waits);
        waits.then_some(pace::INTERVAL)
    }

    /// The connection has ended: all windows go. What was refused stays counted.
    pub fn disconnected(&mut self) {
        self.acts.clear();
        for (id, window) in std::mem::take(&mut self.windows) {
            if window.shown.is_some() {
                self.acts.push(Act::Shut(id));
            }
        }
        self.hello = false;
        self.focus = None;
        self.user.leave();
        self.pressed = report::Pressed::default();
    }

    /// Takes a message.
    ///
    /// # Errors
    /// See [`Break`]: the connection is to be ended.
    pub fn hear(&mut self, message: Untrusted<FromGuest>) -> Result<(), Break> {
        use from_guest::Message;
        let message = message.into_inner().message;
        if !self.hello {
            let Some(Message::Hello(hello)) = message else { return Err(Break::NoHello) };
            if hello.version != window_link::VERSION {
                return Err(Break::Version(hello.version));
            }
            self.hello = true;
            // Again and again, if it wants: the line of its connection is one of few (`app`).
            tracing::debug!(
                program = text::line(&hello.program, 128).0,
                "a guest's agent has come"
            );
            return Ok(());
        }
        match message {
            Some(Message::Window(told)) => self.window(Untrusted::new(told)),
            Some(Message::Gone(told)) => self.gone(told.id),
            Some(Message::Present(told)) => self.present(Untrusted::new(told)),
            Some(Message::Icon(told)) => self.icon(Untrusted::new(told)),
            Some(Message::Cursor(told)) => self.cursor(Untrusted::new(told)),
            Some(Message::Raised(told)) => self.raised(told),
            Some(Message::MoveResize(told)) => self.move_resize(told),
            Some(Message::Bell(_)) => self.acts.push(Act::Bell),
            Some(Message::Told(_)) => self.told(),
            // Nobody asked; harmless.
            Some(Message::Pong(_)) => {}
            Some(Message::Hello(_)) => {
                self.refusals.count(Refusal::Message, "a second hello");
            }
            None => self.refusals.count(Refusal::Message, "an empty message"),
        }
        Ok(())
    }

    /// Asks the guest to tell everything again.
    pub fn resync(&mut self) {
        for window in self.windows.values_mut() {
            window.told = false;
        }
        self.acts.push(Act::Tell(from_host::Message::Resync(v1::Resync {})));
    }

    fn window(&mut self, told: Untrusted<v1::Window>) {
        let (header, record) = Record::check(told, &mut self.refusals);
        let id = header.id;
        if id == 0 {
            self.refusals.count(Refusal::Message, "a window with the id 0");
            return;
        }
        let new = !self.windows.contains_key(&id);
        if new && self.windows.len() >= limits::WINDOWS {
            let most = limits::WINDOWS;
            self.refusals
                .count(Refusal::WindowCount, format_args!("window {id}: there are {most} already"));
            return;
        }
        if new {
            let minimized = record.state.minimized;
            let before = State { minimized, ..State::default() };
            let window = Window {
                generation: header.generation,
                // The agent may have carried out some of an earlier connection.
                sent: header.configured.min(u64::MAX / 2),
                rect: self.place(&record, true),
                state: self.grant(id, &record, before),
                frame: Insets::default(),
                hidden: false,
                reported: false,
                told: true,
                shown: None,
                dirty: true,
                waits: false,
                counted: false,
                presents: present::Presents::default(),
                record,
            };
            self.windows.insert(id, window);
            self.show(id);
            // Those that named it before it was there.
            for (other, window) in &mut self.windows {
                window.dirty |= *other != id && window.record.transient_for == id;
            }
            return;
        }
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.told = true;
        if header.generation <= window.generation {
            // As after a resync, when nothing has changed.
            if header.generation < window.generation {
                self.refusals.count(
                    Refusal::Generation,
                    format_args!("window {id}: generation {} again", header.generation),
                );
            }
            return;
        }
        window.generation = header.generation;
        let current = header.configured >= window.sent;
        let before = std::mem::replace(&mut window.record, record.clone());
        window.dirty = true;
        if current {
            self.agree(id, &before, &record);
        }
    }

    /// The guest has told this of a window as both know it: it becomes so as far as it may, and where it does not
    /// the guest is told, once.
    fn agree(&mut self, id: u32, before: &Record, record: &Record) {
        let Some(window) = self.windows.get(&id) else { return };
        let (agreed, now) = (window.rect, window.state);
        let state = self.grant(id, record, now);
        let by_the_desktop =
            state.fullscreen || (state.maximized_horizontally && state.maximized_vertically);
        let same = record.rect == agreed
            && (record.shadow, record.is_frameless()) == (before.shadow, before.is_frameless());
        let rect = if state.fullscreen != record.state.fullscreen
            || state.minimized != record.state.minimized
        {
            // It went with what is refused.
            agreed
        } else if same || by_the_desktop {
            record.rect
        } else {
            self.place(record, false)
        };
        let rect = if rect.area() > agreed.area() && self.is_too_much(id, &rect) {
            self.refusals.count(
                Refusal::Room,
                format_args!("window {id}: {}x{} more", rect.width, rect.height),
            );
            agreed
        } else {
            rect
        };
        let refused = (rect, state) != (record.rect, record.state);
        let again = (before.rect, before.state) == (record.rect, record.state);
        let Some(window) = self.windows.get_mut(&id) else { return };
        (window.rect, window.state) = (rect, state);
        // One that is not shown is told of when it is.
        if refused && !again && window.shown.is_some() {
            let configure = window.configure(id);
            self.acts.push(Act::Tell(configure));
        }
    }

    fn gone(&mut self, id: u32) {
        let Some(window) = self.windows.remove(&id) else {
            self.refusals.count(Refusal::UnknownWindow, format_args!("window {id} is gone"));
            return;
        };
        if window.shown.is_some() {
            self.acts.push(Act::Shut(id));
        }
        self.forget(id);
    }

    fn forget(&mut self, id: u32) {
        self.pointer = self.pointer.filter(|(over, _)| *over != id);
        self.pressed.forget(id);
        if self.focus == Some(id) {
            self.focus = None;
        }
        for window in self.windows.values_mut() {
            // There may be room now.
            window.dirty |= window.record.transient_for == id || window.shown.is_none();
        }
    }

    fn told(&mut self) {
        let not_told: Vec<u32> =
            self.windows.iter().filter(|(_, window)| !window.told).map(|(id, _)| *id).collect();
        for id in not_told {
            self.gone(id);
        }
    }

    /// Brings a window of the desktop in line with what the guest told of it.
    fn show(&mut self, id: u32) {
        if self.hiding {
            return;
        }
        let owner = self.owner(id);
        let covers = self.covers_too_much(id);
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.dirty = false;
        window.waits = false;
        if covers {
            self.refusals.count(
                Refusal::Cover,
                format_args!("window {id} without a frame covers {:?}", window.rect),
            );
            if window.shown.take().is_some() {
                self.acts.push(Act::Shut(id));
            }
            return;
        }
        let rect = window.rect;
        if window.shown.is_none() && self.is_too_much(id, &rect) {
            self.refusals.count(
                Refusal::Room,
                format_args!("window {id}: {}x{} more", rect.width, rect.height),
            );
            return;
        }
        let Some(window) = self.windows.get(&id) else { return };
        let scale = cover::scale(&self.screens, &rect);
        let mut view =
            View::of(&window.record, &self.vm, scale, rect, window.state, owner, self.titles);
        // Neither of both can change while a window is open on X11.
        let opens = window
            .shown
            .as_ref()
            .is_none_or(|shown| shown.popup != view.popup || shown.alpha != view.alpha);
        if opens {
            if !self.openings.take() {
                self.wait_to_open(id);
                return;
            }
            view.comes_forward = self.may_come_forward(id);
        }
        let Some(window) = self.windows.get_mut(&id) else { return };
        match &window.shown {
            Some(_) if opens => {
                self.acts.push(Act::Reopen(id, Box::new(view.clone())));
                window.reported = false;
            }
            Some(shown) => {
                view.comes_forward = shown.comes_forward;
                if **shown == view {
                    return;
                }
                self.acts.push(Act::Change(id, Box::new(view.clone())));
            }
            None => {
                self.acts.push(Act::Open(id, Box::new(view.clone())));
                window.reported = false;
            }
        }
        window.counted = false;
        let again = window.shown.is_none() && window.presents.has_any();
        window.shown = Some(Box::new(view));
        if again {
            // What it presented while it was refused is not there.
            window.presents.repaint();
            self.resync();
        }
    }

    fn wait_to_open(&mut self, id: u32) {
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.waits = true;
        if !std::mem::replace(&mut window.counted, true) {
            self.refusals.count(Refusal::OpenFlood, format_args!("window {id} has to wait"));
        }
    }

    /// The shown window that `id` belongs to: none where following owners leads in a circle.
    fn owner(&mut self, id: u32) -> Option<u32> {
        let first = self.windows.get(&id)?.record.transient_for;
        let mut at = first;
        for _ in 0..=self.windows.len() {
            if at == id {
                self.refusals.count(
                    Refusal::Circle,
                    format_args!("window {id} belongs to itself, by {first}"),
                );
                return None;
            }
            match self.windows.get(&at) {
                Some(window) => at = window.record.transient_for,
                None => return self.windows.get(&first)?.shown.is_some().then_some(first),
            }
        }
        // A circle that `id` is not part of: its members are cut where they are shown.
        self.windows.get(&first)?.shown.is_some().then_some(first)
    }
}

#[cfg(test)]
mod tests;

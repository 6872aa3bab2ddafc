//! What the host has been told, and what it is to be told: windows with their generations, and their
//! pixels, of which at most one present a window is unanswered. Knows nothing of the display server.

use std::collections::BTreeMap;

use proto::v1::{
    Bell, Configure, Cursor, MoveResize, Pong, Present, PresentAck, Rectangle, Told, Window,
    WindowGone, WindowIcon, WindowRaised, WindowsHello, from_guest,
};
use window_link::limits;
use window_memory::{Allocator, Span};

use super::count::Refusals;
use super::damage::{Damage, Part};
use super::link::Link;
use super::record;

/// Bytes of a pixel.
const PIXEL: u32 = 4;

/// Pixels of one window in window memory.
#[derive(Debug)]
struct Buffer {
    span: Span,
    width: u32,
    height: u32,
}

/// One window, as far as the host is concerned.
#[derive(Debug)]
struct Shown {
    record: Window,
    /// The last configure that the guest has carried out.
    configured: u64,
    /// Pixels that there are in the guest; none before the first.
    size: Option<(u32, u32)>,
    damage: Damage,
    buffer: Option<Buffer>,
    /// Sequence of the present without an answer.
    unanswered: Option<u64>,
    hidden: bool,
    /// There was no memory for its pixels.
    starved: bool,
    /// The record is to be told again, changed or not.
    stale: bool,
}

/// A buffer that the host may still read although its window is gone.
#[derive(Debug)]
struct Retired {
    /// The present that told of it.
    own: u64,
    /// The last present told before the window's end: who answers a later one knows of the end.
    last: u64,
    span: Span,
}

/// A present that is due: where its pixels go.
#[derive(Debug)]
pub struct Due {
    /// Which window.
    pub window: u32,
    /// Pixels of a row.
    pub width: u32,
    /// First row to be copied.
    pub top: u32,
    /// Rows to be copied.
    pub rows: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Teller {
    link: Option<Link>,
    /// The host's hello has come: it listens.
    greeted: bool,
    memory: u64,
    allocator: Allocator,
    windows: BTreeMap<u32, Shown>,
    retired: Vec<Retired>,
    generation: u64,
    sequence: u64,
    /// Nothing is presented: the guest's screen shows its desktop.
    pub desktop: bool,
    /// What was cut or refused.
    pub refusals: Refusals,
}

impl Teller {
    /// With window memory of so many bytes, and no host yet.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Self {
            link: None,
            greeted: false,
            memory,
            allocator: Allocator::new(memory),
            windows: BTreeMap::new(),
            retired: Vec::new(),
            generation: 0,
            sequence: 0,
            desktop: false,
            refusals: Refusals::default(),
        }
    }

    /// The connection.
    pub fn link(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }

    /// Whether a host listens.
    #[must_use]
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the host has taken enough of what it was told to be told more.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.greeted && self.link.as_ref().is_some_and(|link| !link.is_full())
    }

    /// A host is there. Nothing is told before its hello.
    pub fn connected(&mut self, mut link: Link) {
        link.send(from_guest::Message::Hello(WindowsHello {
            version: window_link::VERSION,
            window_memory: self.memory,
            program: concat!("macrohard-guest-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        }));
        self.forget();
        self.link = Some(link);
    }

    /// The host is gone, and with it all it knew.
    pub fn disconnected(&mut self) {
        self.link = None;
        self.forget();
    }

    fn forget(&mut self) {
        self.greeted = false;
        self.windows.clear();
        self.retired.clear();
        self.allocator = Allocator::new(self.memory);
    }

    /// The host's hello: so much memory does it see.
    pub fn greet(&mut self, memory: u64) {
        self.allocator = Allocator::new(self.memory.min(memory));
        self.greeted = true;
    }

    fn say(&mut self, message: from_guest::Message) {
        if self.greeted
            && let Some(link) = &mut self.link
        {
            link.send(message);
        }
    }

    /// Begins to tell everything again, as for a host that knows nothing. Windows that are not told of until
    /// [`Teller::told`] are taken back by it.
    pub fn tell_again(&mut self) {
        for shown in self.windows.values_mut() {
            shown.stale = true;
            if shown.size.is_some() {
                shown.damage = Damage::All;
            }
        }
    }

    /// Everything was told.
    pub fn told(&mut self) {
        self.say(from_guest::Message::Told(Told {}));
    }

    /// Tells of a window, unless the host knows just that. False when there are too many.
    pub fn window(&mut self, mut record: Window) -> bool {
        if !self.greeted {
            return false;
        }
        let id = record.id;
        record::clean(&mut record);
        let full = !self.has_room();
        match self.windows.get_mut(&id) {
            Some(shown) => {
                record.generation = shown.record.generation;
                record.configured = shown.configured;
                if shown.record == record && !shown.stale {
                    return true;
                }
                shown.stale = false;
                self.generation += 1;
                record.generation = self.generation;
                shown.record = record.clone();
            }
            None if full => {
                self.refusals.note("windows over the limit");
                return false;
            }
            None => {
                self.generation += 1;
                record.generation = self.generation;
                let shown = Shown {
                    record: record.clone(),
                    configured: 0,
                    size: None,
                    damage: Damage::None,
                    buffer: None,
                    unanswered: None,
                    hidden: false,
                    starved: false,
                    stale: false,
                };
                self.windows.insert(id, shown);
            }
        }
        self.say(from_guest::Message::Window(record));
        true
    }

    /// Whether one more window may be told.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.windows.len() < limits::WINDOWS
    }

    /// Whether the host knows of it.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.windows.contains_key(&id)
    }

    /// The window is no more to be seen.
    pub fn gone(&mut self, id: u32) {
        let Some(shown) = self.windows.remove(&id) else { return };
        if let Some(buffer) = shown.buffer {
            match shown.unanswered {
                Some(own) => {
                    self.retired.push(Retired { own, last: self.sequence, span: buffer.span });
                }
                None => self.allocator.free(buffer.span),
            }
            self.feed();
        }
        self.say(from_guest::Message::Gone(WindowGone { id }));
    }

    /// Memory became free: windows without any try again.
    fn feed(&mut self) {
        for shown in self.windows.values_mut() {
            shown.starved = false;
        }
    }

    /// Takes note of what the host made of a window. False when it is out of date, or of no window.
    pub fn configure(&mut self, configure: &Configure) -> bool {
        let Some(shown) = self.windows.get_mut(&configure.window) else { return false };
        if configure.generation <= shown.configured {
            return false;
        }
        shown.configured = configure.generation;
        shown.hidden = configure.hidden;
        true
    }

    /// A window's pixels have this size now, all of them new.
    pub fn resized(&mut self, id: u32, width: u32, height: u32) {
        let Some(shown) = self.windows.get_mut(&id) else { return };
        let size = record::place(Rectangle { x: 0, y: 0, width, height });
        shown.size = Some((size.width, size.height));
        shown.damage = Damage::All;
    }

    /// A window has no pixels until it is resized again; the host keeps those it has.
    pub fn unseen(&mut self, id: u32) {
        if let Some(shown) = self.windows.get_mut(&id) {
            shown.size = None;
            shown.damage = Damage::None;
        }
    }

    /// Pixels changed.
    pub fn damaged(&mut self, id: u32, x: i32, y: i32, width: u32, height: u32) {
        let Some(shown) = self.windows.get_mut(&id) else { return };
        let Some(size) = shown.size else { return };
        if let Some(part) = Part::clamped(x, y, width, height, size) {
            shown.damage.add(part);
        }
    }

    /// The host has copied a present's pixels.
    pub fn acknowledged(&mut self, ack: &PresentAck) {
        let before = self.retired.len();
        let mut kept = Vec::new();
        for retired in self.retired.drain(..) {
            match ack.sequence == retired.own || ack.sequence > retired.last {
                true => self.allocator.free(retired.span),
                false => kept.push(retired),
            }
        }
        self.retired = kept;
        if self.retired.len() < before {
            self.feed();
        }
        if let Some(shown) = self.windows.get_mut(&ack.window)
            && shown.unanswered == Some(ack.sequence)
        {
            shown.unanswered = None;
        }
    }

    /// Windows whose pixels are to be copied now, with memory for them.
    pub fn due(&mut self) -> Vec<Due> {
        if self.desktop || !self.ready() {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut freed = false;
        for (id, shown) in &mut self.windows {
            let waits = shown.hidden || shown.starved || shown.unanswered.is_some();
            let Some((width, height)) = shown.size.filter(|_| !waits && !shown.damage.is_none())
            else {
                continue;
            };
            let fits = |buffer: &Buffer| (buffer.width, buffer.height) == (width, height);
            if !shown.buffer.as_ref().is_some_and(fits) {
                if let Some(buffer) = shown.buffer.take() {
                    self.allocator.free(buffer.span);
                    freed = true;
                }
                let bytes = u64::from(width) * u64::from(height) * u64::from(PIXEL);
                let Some(span) = self.allocator.allocate(bytes) else {
                    shown.starved = true;
                    self.refusals.note("windows without window memory");
                    continue;
                };
                shown.buffer = Some(Buffer { span, width, height });
                shown.damage = Damage::All;
            }
            let (top, bottom) = match &shown.damage {
                Damage::Parts(parts) => (
                    parts.iter().map(|part| part.top).min().unwrap_or(0),
                    parts.iter().map(|part| part.bottom).max().unwrap_or(height).min(height),
                ),
                Damage::None | Damage::All => (0, height),
            };
            due.push(Due { window: *id, width, top, rows: bottom - top });
        }
        if freed {
            self.feed();
        }
        due
    }

    /// Where a window's buffer lies.
    #[must_use]
    pub fn span(&self, id: u32) -> Option<&Span> {
        Some(&self.windows.get(&id)?.buffer.as_ref()?.span)
    }

    /// The pixels that were due are there.
    pub fn present(&mut self, id: u32) {
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(shown) = self.windows.get_mut(&id) else { return };
        let Some(buffer) = &shown.buffer else { return };
        let damage = match std::mem::take(&mut shown.damage) {
            Damage::Parts(parts) => parts.into_iter().map(Part::rectangle).collect(),
            Damage::None | Damage::All => Vec::new(),
        };
        shown.unanswered = Some(sequence);
        let present = Present {
            window: id,
            sequence,
            offset: buffer.span.offset(),
            stride: buffer.width * PIXEL,
            width: buffer.width,
            height: buffer.height,
            damage,
        };
        self.say(from_guest::Message::Present(present));
    }

    /// An icon. One that breaks the limits is not told.
    pub fn icon(&mut self, icon: WindowIcon) {
        let side = 1..=limits::ICON;
        let bytes = u64::from(icon.width) * u64::from(icon.height) * u64::from(PIXEL);
        if !side.contains(&icon.width)
            || !side.contains(&icon.height)
            || icon.pixels.len() as u64 != bytes
        {
            return self.refusals.note("icons");
        }
        if self.knows(icon.window) {
            self.say(from_guest::Message::Icon(icon));
        }
    }

    /// The pointer's look.
    pub fn cursor(&mut self, cursor: Cursor) {
        self.say(from_guest::Message::Cursor(cursor));
    }

    /// A window wants to be on top.
    pub fn raised(&mut self, window: u32, activate: bool) {
        if self.knows(window) {
            self.say(from_guest::Message::Raised(WindowRaised { window, activate }));
        }
    }

    /// A window wants to be moved or resized by the pointer.
    pub fn move_resize(&mut self, request: MoveResize) {
        if self.knows(request.window) {
            self.say(from_guest::Message::MoveResize(request));
        }
    }

    /// It rings.
    pub fn bell(&mut self) {
        self.say(from_guest::Message::Bell(Bell {}));
    }

    /// An answer to a ping.
    pub fn pong(&mut self, number: u64) {
        self.say(from_guest::Message::Pong(Pong { number }));
    }
}

//! What is shown now, and what each viewer has not been told yet.

use crate::message::{CursorImage, ToViewer, VERSION};
use crate::{Damage, Frame, FrameError, Rectangle, Scanout, Size};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A VM's display: what painter, lamps and server share.
#[derive(Clone)]
pub struct Display(Arc<Shared>);

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Rung when a viewer has something to be told, or the server is to end.
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    serial: u32,
    shown: Option<Shown>,
    cursor: Option<CursorImage>,
    position: (i32, i32),
    leds: u32,
    viewers: BTreeMap<u64, Pending>,
    ending: bool,
}

#[derive(Clone)]
struct Shown {
    memory: Arc<OwnedFd>,
    size: Size,
    stride: u32,
}

/// What a viewer has not been told. Only the newest of each kind counts, and no frame is sent before
/// the one before is acknowledged, so that a slow viewer holds two frames' memory at most: the one it
/// shows and the one that waits in its socket.
#[derive(Debug)]
struct Pending {
    hello: bool,
    configure: bool,
    /// Follows the frame just sent, whatever is shown meanwhile: its acknowledgement is the frame's.
    first: Option<(u32, Damage)>,
    /// Of the frame shown now.
    damage: Damage,
    /// A frame or damage with this serial was sent and is not acknowledged.
    awaiting: Option<u32>,
    cursor: bool,
    position: bool,
    leds: bool,
}

impl Display {
    /// Nothing shown, nobody looking.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { state: Mutex::default(), wake })))
    }

    /// For the graphics device; one is enough.
    #[must_use]
    pub fn screen(&self) -> Screen {
        Screen { shared: Arc::clone(&self.0), frame: None }
    }

    /// For the keyboard.
    #[must_use]
    pub fn leds(&self) -> Leds {
        Leds(Arc::clone(&self.0))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

/// The keyboard's lamps.
#[derive(Clone)]
pub struct Leds(Arc<Shared>);

impl Leds {
    /// They shine so from now on: bit 0 Num Lock, 1 Caps Lock, 2 Scroll Lock.
    pub fn set(&self, bits: u32) {
        self.0.change(|state| {
            if std::mem::replace(&mut state.leds, bits & 7) != bits & 7 {
                state.viewers.values_mut().for_each(|viewer| viewer.leds = true);
            }
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the server when it has something to say then.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wake = state.viewers.values().any(Pending::has_news);
        drop(state);
        if wake {
            self.ring();
        }
    }

    fn ring(&self) {
        // Fails only when the counter is full: the server wakes anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// Takes the ring off; true when the server is to end.
    pub(crate) fn take_ring(&self) -> bool {
        // Nothing to take is as good.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.lock().ending
    }

    pub(crate) fn end(&self) {
        self.lock().ending = true;
        self.ring();
    }

    /// A viewer that knows nothing yet.
    pub(crate) fn add_viewer(&self, id: u64) {
        let news = Pending {
            hello: true,
            configure: true,
            first: None,
            damage: Damage::default(),
            awaiting: None,
            cursor: true,
            position: true,
            leds: true,
        };
        self.lock().viewers.insert(id, news);
    }

    pub(crate) fn remove_viewer(&self, id: u64) {
        self.lock().viewers.remove(&id);
    }

    /// The viewer has read what it was told of this frame.
    pub(crate) fn acknowledge(&self, id: u64, serial: u32) {
        let mut state = self.lock();
        // Of an older frame: what was sent of the newer one has not been read.
        if let Some(viewer) = state.viewers.get_mut(&id)
            && viewer.awaiting == Some(serial)
        {
            viewer.awaiting = None;
        }
    }

    /// The next thing to tell a viewer, with the memory that goes along.
    pub(crate) fn next(&self, id: u64) -> Option<(ToViewer, Option<Arc<OwnedFd>>)> {
        let mut state = self.lock();
        let state = &mut *state;
        let viewer = state.viewers.get_mut(&id)?;
        let take = std::mem::take::<bool>;
        let message = if take(&mut viewer.hello) {
            ToViewer::Hello { version: VERSION }
        } else if let Some((serial, damage)) = viewer.first.take() {
            ToViewer::Damage { serial, damage }
        } else if viewer.awaiting.is_none() && take(&mut viewer.configure) {
            let shown = state.shown.as_ref();
            let configure = ToViewer::Configure {
                serial: state.serial,
                size: shown.map(|shown| shown.size),
                stride: shown.map_or(0, |shown| shown.stride),
            };
            // Its memory has all that was painted so far.
            viewer.damage = Damage::default();
            if let Some(shown) = shown {
                viewer.first = Some((state.serial, [shown.size.whole()].into_iter().collect()));
                viewer.awaiting = Some(state.serial);
            }
            return Some((configure, shown.map(|shown| Arc::clone(&shown.memory))));
        } else if take(&mut viewer.leds) {
            ToViewer::Leds(state.leds)
        } else if take(&mut viewer.cursor) {
            ToViewer::Cursor(state.cursor.clone())
        } else if take(&mut viewer.position) {
            ToViewer::CursorPosition { x: state.position.0, y: state.position.1 }
        } else if viewer.awaiting.is_none() && !viewer.damage.is_empty() {
            viewer.awaiting = Some(state.serial);
            let damage = std::mem::take(&mut viewer.damage);
            ToViewer::Damage { serial: state.serial, damage }
        } else {
            return None;
        };
        Some((message, None))
    }
}

impl Pending {
    fn has_news(&self) -> bool {
        self.hello
            || self.first.is_some()
            || self.cursor
            || self.position
            || self.leds
            || (self.awaiting.is_none() && (self.configure || !self.damage.is_empty()))
    }
}

/// The picture, as the graphics device paints it.
pub struct Screen {
    shared: Arc<Shared>,
    frame: Option<Frame>,
}

impl Screen {
    fn show(&mut self, frame: Option<Frame>) -> Result<(), FrameError> {
        let shown = match &frame {
            None => None,
            Some(frame) => {
                let memory = frame.descriptor().try_clone_to_owned();
                let memory = memory.map_err(|error| FrameError::System {
                    tried: "share",
                    error: rustix::io::Errno::from_io_error(&error)
                        .unwrap_or(rustix::io::Errno::IO),
                })?;
                let (size, stride) = (frame.size(), frame.stride());
                Some(Shown { memory: Arc::new(memory), size, stride })
            }
        };
        self.frame = frame;
        self.shared.change(|state| {
            state.serial = state.serial.wrapping_add(1);
            for viewer in state.viewers.values_mut() {
                viewer.configure = true;
                // All of the new frame is new.
                viewer.damage = Damage::default();
            }
            state.shown = shown;
        });
        Ok(())
    }
}

impl Scanout for Screen {
    fn configure(&mut self, size: Option<Size>) -> Result<(), FrameError> {
        if self.frame.as_ref().map(Frame::size) == size {
            return Ok(());
        }
        let made = size.map(Frame::new).transpose().and_then(|frame| self.show(frame));
        if made.is_err() {
            // Showing nothing needs no memory.
            let _ = self.show(None);
        }
        made
    }

    fn paint(&mut self, area: Rectangle, fill: &mut dyn FnMut(u32, u32, &mut [u8])) {
        let Some(frame) = &mut self.frame else {
            return;
        };
        let part = area.intersection(&frame.size().whole());
        if part.is_empty() {
            return;
        }
        for y in part.y..part.y + part.height {
            fill(y, part.x, frame.row(y, part.x, part.width));
        }
        self.shared.change(|state| {
            state.viewers.values_mut().for_each(|viewer| viewer.damage.add(part));
        });
    }

    fn set_cursor(&mut self, image: Option<CursorImage>) {
        self.shared.change(|state| {
            if state.cursor != image {
                state.cursor = image;
                state.viewers.values_mut().for_each(|viewer| viewer.cursor = true);
            }
        });
    }

    fn move_cursor(&mut self, x: i32, y: i32) {
        self.shared.change(|state| {
            if std::mem::replace(&mut state.position, (x, y)) != (x, y) {
                state.viewers.values_mut().for_each(|viewer| viewer.position = true);
            }
        });
    }
}

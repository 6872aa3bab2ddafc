//! The host's keys and pointer, as if they were this X server's own (XTEST).

use std::collections::BTreeSet;

use proto::v1::{Key, PointerButton, PointerMotion, PointerScroll};
use window_link::limits;
use x11rb::NONE;
use x11rb::protocol::xproto::{
    BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, ConfigureWindowAux, ConnectionExt as _,
    KEY_PRESS_EVENT, KEY_RELEASE_EVENT, MOTION_NOTIFY_EVENT, StackMode, Window,
};
use x11rb::protocol::xtest::ConnectionExt as _;

use super::{Lost, X11};

/// X counts keys from here on (`linux/input-event-codes.h` from 0).
const FIRST_KEY: u32 = 8;
/// A notch of the wheel, in the protocol's unit.
const NOTCH: i32 = 120;
/// Most notches in one message.
const NOTCHES: i32 = 64;
/// Buttons of the wheel: up, down, left, right (XI 2, section 4.2).
const WHEEL: [u8; 4] = [4, 5, 6, 7];

/// What is pressed, and where the pointer is.
#[derive(Debug, Default)]
pub(super) struct Input {
    keys: BTreeSet<u8>,
    buttons: BTreeSet<u8>,
    /// What is left of the last notch: right, down.
    scrolled: (i32, i32),
    /// The window that is surely over all others.
    pub(super) top: Window,
    /// The pointer is not over the guest's windows.
    away: bool,
}

impl X11 {
    fn fake(&self, kind: u8, detail: u8, x: i16, y: i16) -> Result<(), Lost> {
        self.x.xtest_fake_input(kind, detail, 0, self.root, x, y, 0)?;
        Ok(())
    }

    /// The pointer moves over a window, or leaves all of them.
    pub(super) fn motion(&mut self, motion: &PointerMotion) -> Result<(), Lost> {
        let Some(client) = self.clients.get(&motion.window) else {
            if motion.window == NONE && !self.input.away {
                // Programs learn that the pointer has left by its being over another window.
                let (width, height) = self.size;
                let aux = ConfigureWindowAux::new()
                    .x(0)
                    .y(0)
                    .width(u32::from(width))
                    .height(u32::from(height))
                    .stack_mode(StackMode::ABOVE);
                self.x.configure_window(self.shield, &aux)?;
                self.x.map_window(self.shield)?;
                self.input.away = true;
            }
            return Ok(());
        };
        // The pixel in which the point lies, also left of the window while a button is held.
        let at = |start: i32, offset: i32, length: u16| {
            let place = i64::from(start) + i64::from(offset >> 8);
            i16::try_from(place.clamp(0, i64::from(length.max(1)) - 1)).unwrap_or(i16::MAX)
        };
        let x = at(client.geometry.x, motion.x, self.size.0);
        let y = at(client.geometry.y, motion.y, self.size.1);
        if self.input.top != motion.window {
            // The host shows this window at this place, whatever this server has above it.
            let aux = ConfigureWindowAux::new().stack_mode(StackMode::ABOVE);
            self.x.configure_window(motion.window, &aux)?;
            self.input.top = motion.window;
        }
        if std::mem::take(&mut self.input.away) {
            self.fake(MOTION_NOTIFY_EVENT, 0, x, y)?;
            self.x.unmap_window(self.shield)?;
            return Ok(());
        }
        self.fake(MOTION_NOTIFY_EVENT, 0, x, y)
    }

    /// A button of the pointer. A release without a press is none.
    pub(super) fn button(&mut self, button: &PointerButton) -> Result<(), Lost> {
        let number = match u8::try_from(button.button) {
            Ok(number @ (1..=3 | 8 | 9)) => number,
            _ => return Ok(()),
        };
        match button.pressed {
            true if self.input.buttons.insert(number) => {
                self.fake(BUTTON_PRESS_EVENT, number, 0, 0)
            }
            false if self.input.buttons.remove(&number) => {
                self.fake(BUTTON_RELEASE_EVENT, number, 0, 0)
            }
            _ => Ok(()),
        }
    }

    /// The wheel: whole notches, once there is one.
    pub(super) fn scroll(&mut self, scroll: &PointerScroll) -> Result<(), Lost> {
        let most = NOTCH * NOTCHES;
        let [up, down, left, right] = WHEEL;
        let (x, y) = self.input.scrolled;
        let x = x + scroll.horizontal.clamp(-most, most);
        let y = y + scroll.vertical.clamp(-most, most);
        for (all, back, on) in [(y, up, down), (x, left, right)] {
            let button = if all < 0 { back } else { on };
            for _ in 0..(all / NOTCH).unsigned_abs() {
                self.fake(BUTTON_PRESS_EVENT, button, 0, 0)?;
                self.fake(BUTTON_RELEASE_EVENT, button, 0, 0)?;
            }
        }
        self.input.scrolled = (x % NOTCH, y % NOTCH);
        Ok(())
    }

    /// A key. The host repeats: a press of one that is pressed comes again as release and press, which is how
    /// X servers repeat.
    pub(super) fn key(&mut self, key: &Key) -> Result<(), Lost> {
        if !(1..=limits::KEY).contains(&key.code) {
            return Ok(());
        }
        let Ok(code) = u8::try_from(key.code + FIRST_KEY) else { return Ok(()) };
        if !key.pressed {
            return match self.input.keys.remove(&code) {
                true => self.fake(KEY_RELEASE_EVENT, code, 0, 0),
                false => Ok(()),
            };
        }
        if !self.input.keys.insert(code) {
            self.fake(KEY_RELEASE_EVENT, code, 0, 0)?;
        }
        self.fake(KEY_PRESS_EVENT, code, 0, 0)
    }

    /// Lets go of the buttons.
    pub(super) fn release_buttons(&mut self) -> Result<(), Lost> {
        for button in std::mem::take(&mut self.input.buttons) {
            self.fake(BUTTON_RELEASE_EVENT, button, 0, 0)?;
        }
        Ok(())
    }

    /// Lets go of the keys.
    pub(super) fn release_keys(&mut self) -> Result<(), Lost> {
        for key in std::mem::take(&mut self.input.keys) {
            self.fake(KEY_RELEASE_EVENT, key, 0, 0)?;
        }
        Ok(())
    }

    /// The pointer is the machine's own from here on.
    pub(super) fn forget_pointer(&mut self) -> Result<(), Lost> {
        self.input.away = false;
        self.input.top = NONE;
        self.x.unmap_window(self.shield)?;
        Ok(())
    }

    /// Lets go of everything.
    pub(super) fn release_all(&mut self) -> Result<(), Lost> {
        self.release_buttons()?;
        self.release_keys()
    }
}

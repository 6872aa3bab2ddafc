//! The PS/2 keyboard behind the controller (IBM PS/2 technical reference, keyboard; 101/102 keys).

use super::scancode::{LONGEST, Set, encode};
use crate::state::{StateError, check_field};
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// Bytes waiting for the controller beyond which key events are refused.
const EVENT_LIMIT: usize = 64;
/// Bytes waiting beyond which answers are lost, as with a real keyboard.
const QUEUE_LIMIT: usize = EVENT_LIMIT + LONGEST;

pub(super) const ACKNOWLEDGE: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
/// Basic assurance test passed.
pub(super) const TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
/// Identification of an MF2 keyboard.
const IDENTITY: [u8; 2] = [0xab, 0x83];

const SET_LEDS: u8 = 0xed;
const SCAN_CODE_SET: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const SET_TYPEMATIC: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const SET_DEFAULTS: u8 = 0xf6;
const RESET: u8 = 0xff;

/// 500 ms delay, 10.9 keys per second: the default after power-on.
const TYPEMATIC_DEFAULT: u8 = 0x2b;
/// Unit of the typematic period: a 240th of a second.
const TYPEMATIC_UNIT: u64 = 1_000_000_000 / 240;
/// Step of the typematic delay.
const TYPEMATIC_DELAY: u64 = 250_000_000;

/// The key that repeats while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    key: u16,
    /// Machine time of the next repetition, nanoseconds.
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    enabled: bool,
    set: Set,
    /// Scroll lock, num lock, caps lock (bits 0 to 2).
    leds: u8,
    typematic: u8,
    /// A command that waits for its parameter.
    awaited: Option<u8>,
    last_sent: u8,
    held: Option<Held>,
    queue: VecDeque<u8>,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            enabled: true,
            set: Set::Two,
            leds: 0,
            typematic: TYPEMATIC_DEFAULT,
            awaited: None,
            last_sent: 0,
            held: None,
            queue: VecDeque::new(),
        }
    }

    pub(super) const fn leds(&self) -> u8 {
        self.leds
    }

    /// A key goes down or up. False when the keyboard cannot take it now.
    pub(super) fn push_key(&mut self, key: u16, pressed: bool, now: u64) -> bool {
        let Some(bytes) = encode(key, pressed, self.set) else {
            return true;
        };
        if !self.enabled {
            return true;
        }
        if self.queue.len() + bytes.as_slice().len() > EVENT_LIMIT {
            return false;
        }
        self.queue.extend(bytes.as_slice());
        if pressed {
            self.held = Some(Held { key, next: now.saturating_add(self.repeat_delay()) });
        } else if self.held.is_some_and(|held| held.key == key) {
            self.held = None;
        }
        true
    }

    const fn repeat_delay(&self) -> u64 {
        ((self.typematic >> 5 & 3) as u64 + 1) * TYPEMATIC_DELAY
    }

    const fn repeat_period(&self) -> u64 {
        ((8 + (self.typematic & 7) as u64) << (self.typematic >> 3 & 3)) * TYPEMATIC_UNIT
    }

    /// Repeats the held key if it is time; repetitions the guest was too slow for are dropped.
    pub(super) fn advance(&mut self, now: u64) {
        let Some(held) = self.held.filter(|held| held.next <= now) else {
            return;
        };
        if let (true, Some(bytes)) = (self.queue.is_empty(), encode(held.key, true, self.set)) {
            self.queue.extend(bytes.as_slice());
        }
        self.held = Some(Held { next: now.saturating_add(self.repeat_period()), ..held });
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.held.map(|held| held.next)
    }

    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.queue.len() < QUEUE_LIMIT {
                self.queue.push_back(byte);
            }
        }
    }

    /// The controller passes on a byte from the guest.
    pub(super) fn command(&mut self, byte: u8) {
        match self.awaited.take() {
            // Commands have the top bit set; anything else is the parameter.
            Some(command) if byte < 0x80 => return self.parameter(command, byte),
            _ => {}
        }
        match byte {
            SET_LEDS | SCAN_CODE_SET | SET_TYPEMATIC => {
                self.awaited = Some(byte);
                self.answer(&[ACKNOWLEDGE]);
            }
            ECHO => self.answer(&[ECHO]),
            IDENTIFY => self.answer(&[ACKNOWLEDGE, IDENTITY[0], IDENTITY[1]]),
            ENABLE => {
                self.enabled = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            DISABLE | SET_DEFAULTS => {
                *self = Self {
                    enabled: byte == SET_DEFAULTS,
                    leds: self.leds,
                    last_sent: self.last_sent,
                    queue: core::mem::take(&mut self.queue),
                    ..Self::new()
                };
                self.answer(&[ACKNOWLEDGE]);
            }
            RESEND => self.answer(&[self.last_sent]),
            RESET => {
                *self = Self::new();
                self.answer(&[ACKNOWLEDGE, TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match (command, value) {
            (SET_LEDS, _) => self.leds = value & 7,
            (SET_TYPEMATIC, _) => self.typematic = value,
            (SCAN_CODE_SET, 0) => {
                let set = match self.set {
                    Set::One => 1,
                    Set::Two => 2,
                };
                return self.answer(&[ACKNOWLEDGE, set]);
            }
            (SCAN_CODE_SET, 1) => self.set = Set::One,
            (SCAN_CODE_SET, 2) => self.set = Set::Two,
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        check_field(
            self.queue.len() <= QUEUE_LIMIT,
            "i8042",
            "keyboard queue length",
            self.queue.len(),
            "at most 72",
        )
    }
}

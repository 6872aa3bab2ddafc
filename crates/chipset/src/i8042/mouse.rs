//! The PS/2 mouse behind the controller, with the wheel and the five buttons of the IntelliMouse
//! extensions (IBM PS/2 technical reference, mouse; Microsoft, "IntelliMouse PS/2 protocol").
//!
//! Deviation: 2:1 scaling is accepted and reported, and does not scale.

use super::keyboard::{ACKNOWLEDGE, RESEND, TEST_PASSED};
use crate::state::{StateError, check_field};
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// Bytes waiting for the controller beyond which motion is gathered instead of reported.
const PACKET_LIMIT: usize = 16;
/// Bytes waiting beyond which answers are lost.
const QUEUE_LIMIT: usize = 64;
/// Motion gathered while the guest does not read is cut to this many counts.
const MOTION_LIMIT: i32 = 1 << 16;

const SCALE_1_TO_1: u8 = 0xe6;
const SCALE_2_TO_1: u8 = 0xe7;
const SET_RESOLUTION: u8 = 0xe8;
const STATUS: u8 = 0xe9;
const SET_STREAM_MODE: u8 = 0xea;
const READ_DATA: u8 = 0xeb;
const LEAVE_WRAP_MODE: u8 = 0xec;
const SET_WRAP_MODE: u8 = 0xee;
const SET_REMOTE_MODE: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const SET_SAMPLE_RATE: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const SET_DEFAULTS: u8 = 0xf6;
const RESET: u8 = 0xff;

/// Sample rates set in a row that unlock the wheel, and then five buttons.
const UNLOCK_WHEEL: [u8; 3] = [200, 100, 80];
const UNLOCK_BUTTONS: [u8; 3] = [200, 200, 80];

/// What a mouse calls itself, and how long its packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Plain,
    Wheel,
    FiveButtons,
}

impl Kind {
    const fn id(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Wheel => 3,
            Self::FiveButtons => 4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Stream,
    Remote,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    kind: Kind,
    mode: Mode,
    wrap: bool,
    /// Reports by itself in stream mode.
    enabled: bool,
    double: bool,
    resolution: u8,
    rate: u8,
    last_rates: [u8; 3],
    /// A command that waits for its parameter.
    awaited: Option<u8>,
    buttons: u8,
    reported_buttons: u8,
    /// Motion not reported yet: right, up, wheel towards the user.
    motion: [i32; 3],
    last_sent: u8,
    queue: VecDeque<u8>,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            kind: Kind::Plain,
            mode: Mode::Stream,
            wrap: false,
            enabled: false,
            double: false,
            resolution: 2,
            rate: 100,
            last_rates: [0; 3],
            awaited: None,
            buttons: 0,
            reported_buttons: 0,
            motion: [0; 3],
            last_sent: 0,
            queue: VecDeque::new(),
        }
    }

    /// The mouse moved by `right`, `down` and `wheel_up` counts and has these buttons down (bit 0
    /// left, 1 right, 2 middle, 3 and 4 side).
    pub(super) fn push(&mut self, right: i32, down: i32, wheel_up: i32, buttons: u8) {
        let moved = [right, down.saturating_neg(), wheel_up.saturating_neg()];
        for (sum, by) in self.motion.iter_mut().zip(moved) {
            *sum = sum.saturating_add(by).clamp(-MOTION_LIMIT, MOTION_LIMIT);
        }
        self.buttons = buttons & 0x1f;
        self.report();
    }

    /// Queues packets while there is something to tell and room.
    pub(super) fn report(&mut self) {
        let streams = self.mode == Mode::Stream && self.enabled && !self.wrap;
        while streams && self.has_news() && self.queue.len() + 4 <= PACKET_LIMIT {
            self.packet();
        }
    }

    fn has_news(&self) -> bool {
        let seen = if self.kind == Kind::FiveButtons { 0x1f } else { 0x07 };
        let axes = if self.kind == Kind::Plain { 2 } else { 3 };
        self.motion.iter().take(axes).any(|&counts| counts != 0)
            || (self.buttons ^ self.reported_buttons) & seen != 0
    }

    fn packet(&mut self) {
        let [x, y, wheel] = &mut self.motion;
        let part = |sum: &mut i32, least: i32, most: i32| {
            let part = (*sum).clamp(least, most);
            *sum -= part;
            part
        };
        // Nine-bit motion, four-bit wheel.
        let (right, up, down) = (part(x, -255, 255), part(y, -255, 255), part(wheel, -8, 7));
        let signs = u8::from(right < 0) << 4 | u8::from(up < 0) << 5;
        let mut bytes = [self.buttons & 7 | 0x08 | signs, right as u8, up as u8, 0];
        let length = match self.kind {
            Kind::Plain => 3,
            Kind::Wheel => {
                bytes[3] = down as u8;
                4
            }
            Kind::FiveButtons => {
                bytes[3] = down as u8 & 0x0f | (self.buttons & 0x18) << 1;
                4
            }
        };
        self.reported_buttons = self.buttons;
        self.answer(bytes.get(..length).unwrap_or_default());
    }

    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        self.report();
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
        if let Some(command) = self.awaited.take() {
            return self.parameter(command, byte);
        }
        if self.wrap && byte != LEAVE_WRAP_MODE && byte != RESET {
            return self.answer(&[byte]);
        }
        // A command ends the report under way.
        self.queue.clear();
        match byte {
            SCALE_1_TO_1 | SCALE_2_TO_1 => self.double = byte == SCALE_2_TO_1,
            SET_RESOLUTION | SET_SAMPLE_RATE => self.awaited = Some(byte),
            STATUS => {
                let state = u8::from(self.mode == Mode::Remote) << 6
                    | u8::from(self.enabled) << 5
                    | u8::from(self.double) << 4;
                let buttons =
                    (self.buttons & 1) << 2 | (self.buttons & 4) >> 1 | (self.buttons & 2) >> 1;
                let status = state | buttons;
                return self.answer(&[ACKNOWLEDGE, status, self.resolution, self.rate]);
            }
            SET_STREAM_MODE => self.mode = Mode::Stream,
            READ_DATA => {
                self.answer(&[ACKNOWLEDGE]);
                return self.packet();
            }
            LEAVE_WRAP_MODE => self.wrap = false,
            SET_WRAP_MODE => self.wrap = true,
            SET_REMOTE_MODE => self.mode = Mode::Remote,
            IDENTIFY => return self.answer(&[ACKNOWLEDGE, self.kind.id()]),
            ENABLE => {
                self.enabled = true;
                // What moved before counts for nothing.
                self.motion = [0; 3];
                self.reported_buttons = self.buttons;
            }
            DISABLE => self.enabled = false,
            SET_DEFAULTS => {
                let (kind, buttons) = (self.kind, self.buttons);
                *self = Self { kind, buttons, reported_buttons: buttons, ..Self::new() };
            }
            RESEND => return self.answer(&[self.last_sent]),
            RESET => {
                *self = Self { buttons: self.buttons, ..Self::new() };
                return self.answer(&[ACKNOWLEDGE, TEST_PASSED, self.kind.id()]);
            }
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    fn parameter(&mut self, command: u8, value: u8) {
        if command == SET_RESOLUTION {
            self.resolution = value & 3;
        } else {
            self.rate = value;
            self.last_rates = [self.last_rates[1], self.last_rates[2], value];
            match self.last_rates {
                UNLOCK_WHEEL if self.kind == Kind::Plain => self.kind = Kind::Wheel,
                UNLOCK_BUTTONS if self.kind == Kind::Wheel => self.kind = Kind::FiveButtons,
                _ => {}
            }
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        check_field(
            self.queue.len() <= QUEUE_LIMIT,
            "i8042",
            "mouse queue length",
            self.queue.len(),
            "at most 64",
        )?;
        check_field(
            self.motion.iter().all(|counts| (-MOTION_LIMIT..=MOTION_LIMIT).contains(counts)),
            "i8042",
            "mouse motion",
            self.motion,
            "-65536 to 65536",
        )
    }
}

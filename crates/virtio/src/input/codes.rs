//! Numbers of the input device (virtio 1.2, 5.8) and of Linux's events (linux/input-event-codes.h).

/// `virtio_input_config_select` (virtio 1.2, 5.8.4).
pub(super) mod select {
    pub(crate) const ID_NAME: u8 = 0x01;
    pub(crate) const ID_SERIAL: u8 = 0x02;
    pub(crate) const ID_DEVIDS: u8 = 0x03;
    pub(crate) const PROP_BITS: u8 = 0x10;
    pub(crate) const EV_BITS: u8 = 0x11;
    pub(crate) const ABS_INFO: u8 = 0x12;
}

/// Event types.
pub(super) const EV_SYN: u16 = 0x00;
pub(super) const EV_KEY: u16 = 0x01;
pub(super) const EV_REL: u16 = 0x02;
pub(super) const EV_ABS: u16 = 0x03;
pub(super) const EV_LED: u16 = 0x11;
pub(super) const EV_REP: u16 = 0x14;

pub(super) const SYN_REPORT: u16 = 0;

/// Keys of a keyboard: `KEY_ESC` to `KEY_MICMUTE`.
pub(super) const KEYS: std::ops::RangeInclusive<u16> = 1..=248;
/// Buttons of a mouse: `BTN_LEFT` to `BTN_TASK`.
pub(super) const BUTTONS: std::ops::RangeInclusive<u16> = 0x110..=0x117;

pub(super) const REL_HWHEEL: u16 = 0x06;
pub(super) const REL_WHEEL: u16 = 0x08;
pub(super) const REL_WHEEL_HI_RES: u16 = 0x0b;
pub(super) const REL_HWHEEL_HI_RES: u16 = 0x0c;
/// `REL_*_HI_RES` of one detent (Linux, Documentation/input/event-codes.rst).
pub(super) const DETENT: i32 = 120;

pub(super) const ABS_X: u16 = 0x00;
pub(super) const ABS_Y: u16 = 0x01;
/// The largest value of either axis.
pub(super) const ABS_MOST: u16 = 32767;

/// `LED_NUML`, `LED_CAPSL`, `LED_SCROLLL`.
pub(super) const LEDS: std::ops::RangeInclusive<u16> = 0..=2;
/// `REP_DELAY` and `REP_PERIOD`: the guest repeats keys by itself.
pub(super) const REPEATS: std::ops::RangeInclusive<u16> = 0..=1;

/// `BUS_VIRTUAL` (linux/input.h).
pub(super) const BUS_VIRTUAL: u16 = 0x06;

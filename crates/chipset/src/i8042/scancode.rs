//! Key codes: from the numbers of Linux input events to the bytes a PC keyboard sends.

/// What the keyboard controller makes of a scan code set 2 byte when it translates to set 1 (IBM
/// PS/2 technical reference, keyboard controller, "translation"). Indexed by the byte.
#[rustfmt::skip]
const TRANSLATION: [u8; 0x80] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// The set 2 bytes above the table that translate to something else: F7 and Alt+SysRq.
const TRANSLATION_ABOVE: [(u8, u8); 2] = [(0x83, 0x41), (0x84, 0x54)];

/// Prefix of the keys an AT keyboard did not have.
const EXTENDED: u8 = 0xe0;
/// Prefix of the Pause key alone.
const EXTENDED_PAUSE: u8 = 0xe1;
/// Prefix of a release in set 2; a release in set 1 has this bit in the code instead.
const RELEASED: u8 = 0xf0;
const RELEASED_BIT: u8 = 0x80;

/// Linux key code of Pause (`KEY_PAUSE`), which is sent whole when pressed and never released.
const PAUSE: u16 = 119;
const PAUSE_SET_1: [u8; 6] = [EXTENDED_PAUSE, 0x1d, 0x45, EXTENDED_PAUSE, 0x9d, 0xc5];
const PAUSE_SET_2: [u8; 8] =
    [EXTENDED_PAUSE, 0x14, 0x77, EXTENDED_PAUSE, RELEASED, 0x14, RELEASED, 0x77];

/// Linux key codes that are not their own set 1 code: code, whether extended, set 1 code.
#[rustfmt::skip]
const SPECIAL: [(u16, bool, u8); 60] = [
    // Japanese, Korean and Brazilian keys.
    (85, false, 0x76), (89, false, 0x73), (90, false, 0x78), (91, false, 0x77), (92, false, 0x79),
    (93, false, 0x70), (94, false, 0x7b), (95, false, 0x5c), (117, false, 0x59), (121, false, 0x7e),
    (124, false, 0x7d),
    // Keypad enter and slash, right control and alt, print screen, navigation.
    (96, true, 0x1c), (97, true, 0x1d), (98, true, 0x35), (99, true, 0x37), (100, true, 0x38),
    (102, true, 0x47), (103, true, 0x48), (104, true, 0x49), (105, true, 0x4b), (106, true, 0x4d),
    (107, true, 0x4f), (108, true, 0x50), (109, true, 0x51), (110, true, 0x52), (111, true, 0x53),
    // Volume, power, meta, menu.
    (113, true, 0x20), (114, true, 0x2e), (115, true, 0x30), (116, true, 0x5e), (125, true, 0x5b),
    (126, true, 0x5c), (127, true, 0x5d),
    // Stop, calculator, sleep, wake, mail, bookmarks, computer, back, forward.
    (128, true, 0x68), (140, true, 0x21), (142, true, 0x5f), (143, true, 0x63), (155, true, 0x6c),
    (156, true, 0x66), (157, true, 0x6b), (158, true, 0x6a), (159, true, 0x69),
    // Next, play, previous, stop playing, home page, refresh, search, media.
    (163, true, 0x19), (164, true, 0x22), (165, true, 0x10), (166, true, 0x24), (172, true, 0x32),
    (173, true, 0x67), (217, true, 0x65), (226, true, 0x6d),
    // F13 to F22.
    (183, false, 0x64), (184, false, 0x65), (185, false, 0x66), (186, false, 0x67),
    (187, false, 0x68), (188, false, 0x69), (189, false, 0x6a), (190, false, 0x6b),
    (191, false, 0x6c), (192, false, 0x6d),
];

/// Which codes the keyboard sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Set {
    One,
    Two,
}

/// The most bytes one key event takes.
pub(super) const LONGEST: usize = 8;

/// Bytes of one key event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let mut all = Self::default();
        bytes.iter().for_each(|&byte| all.push(byte));
        all
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Set 1 code of Linux key `key` and whether it is extended.
fn set_1(key: u16) -> Option<(bool, u8)> {
    match key {
        // Escape to keypad dot, and 102ND, F11, F12: Linux took its numbers from set 1.
        1..=83 | 86..=88 => Some((false, key as u8)),
        _ => SPECIAL
            .iter()
            .find(|(code, ..)| *code == key)
            .map(|&(_, extended, code)| (extended, code)),
    }
}

/// The set 2 code that translates to set 1 code `code`.
fn to_set_2(code: u8) -> u8 {
    let above = TRANSLATION_ABOVE.iter().find(|(_, translated)| *translated == code);
    let below = || TRANSLATION.iter().position(|&translated| translated == code);
    above.map(|&(code, _)| code).or_else(|| below().map(|at| at as u8)).unwrap_or(0)
}

/// The bytes a keyboard sends for Linux key code `key`; `None` for a key no PC keyboard has.
pub(super) fn encode(key: u16, pressed: bool, set: Set) -> Option<Bytes> {
    if key == PAUSE {
        return Some(match (pressed, set) {
            (false, _) => Bytes::default(),
            (true, Set::One) => Bytes::of(&PAUSE_SET_1),
            (true, Set::Two) => Bytes::of(&PAUSE_SET_2),
        });
    }
    let (extended, code) = set_1(key)?;
    let mut bytes = Bytes::default();
    if extended {
        bytes.push(EXTENDED);
    }
    match (set, pressed) {
        (Set::One, true) => bytes.push(code),
        (Set::One, false) => bytes.push(code | RELEASED_BIT),
        (Set::Two, true) => bytes.push(to_set_2(code)),
        (Set::Two, false) => {
            bytes.push(RELEASED);
            bytes.push(to_set_2(code));
        }
    }
    Some(bytes)
}

/// The controller's translation of one byte from the keyboard; `None` while a release prefix waits
/// for its code. `released` is that wait, kept by the caller.
pub(super) fn translate(byte: u8, released: &mut bool) -> Option<u8> {
    if byte == RELEASED {
        *released = true;
        return None;
    }
    let translated = match TRANSLATION.get(usize::from(byte)) {
        Some(&code) => code,
        None => TRANSLATION_ABOVE
            .iter()
            .find(|(code, _)| *code == byte)
            .map_or(byte, |&(_, translated)| translated),
    };
    let bit = if core::mem::take(released) { RELEASED_BIT } else { 0 };
    Some(translated | bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn set_2_translated_is_set_1_for_every_key_and_release() {
        let mut keys = 0;
        for (key, pressed) in (0..512).flat_map(|key| [(key, true), (key, false)]) {
            let Some(direct) = encode(key, pressed, Set::One) else {
                continue;
            };
            let mut released = false;
            let translated: Vec<u8> = encode(key, pressed, Set::Two)
                .unwrap()
                .as_slice()
                .iter()
                .filter_map(|&byte| translate(byte, &mut released))
                .collect();
            assert_eq!(translated, direct.as_slice(), "key {key}, pressed {pressed}");
            keys += 1;
        }
        assert_eq!(keys, 2 * (86 + SPECIAL.len() + 1));
    }

    #[test]
    fn well_known_keys_have_their_well_known_codes() {
        for (key, pressed, expected) in [
            (30, true, &[0x1c][..]),
            (30, false, &[0xf0, 0x1c]),
            (1, true, &[0x76]),
            (65, true, &[0x83]),
            (105, false, &[0xe0, 0xf0, 0x6b]),
            (125, true, &[0xe0, 0x1f]),
        ] {
            assert_eq!(encode(key, pressed, Set::Two).unwrap().as_slice(), expected);
        }
        assert_eq!(encode(0, true, Set::Two), None);
        assert_eq!(encode(0x110, true, Set::Two), None, "a mouse button is no key");
    }
}

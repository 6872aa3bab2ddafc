//! What a device says of itself in its configuration space (virtio 1.2, 5.8.4).

use super::Kind;
use super::codes::{
    ABS_MOST, ABS_X, ABS_Y, BUS_VIRTUAL, BUTTONS, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_REP, KEYS,
    LEDS, REL_HWHEEL, REL_HWHEEL_HI_RES, REL_WHEEL, REL_WHEEL_HI_RES, REPEATS, select,
};

/// Bytes of the space: select, subselect, size, five reserved, the union.
pub(super) const CONFIG_BYTES: usize = 8 + UNION_BYTES;
const UNION_BYTES: usize = 128;

/// The answer to a selection, at most [`UNION_BYTES`]; empty where there is nothing.
fn answer(kind: Kind, selected: u8, of: u8) -> Vec<u8> {
    match (selected, of) {
        (select::ID_NAME, 0) => match kind {
            Kind::Keyboard => b"Macrohard keyboard".to_vec(),
            Kind::Pointer => b"Macrohard pointer".to_vec(),
        },
        (select::ID_SERIAL, 0) => match kind {
            Kind::Keyboard => b"keyboard0".to_vec(),
            Kind::Pointer => b"pointer0".to_vec(),
        },
        (select::ID_DEVIDS, 0) => {
            let product = match kind {
                Kind::Keyboard => 1,
                Kind::Pointer => 2,
            };
            // Bus, vendor (virtio's, as of its PCI functions), product, version.
            [BUS_VIRTUAL, 0x1af4, product, 1].into_iter().flat_map(u16::to_le_bytes).collect()
        }
        // No property: an absolute pointer that is no touch screen.
        (select::PROP_BITS, _) => Vec::new(),
        (select::EV_BITS, event) => bits(&codes(kind, event.into())),
        (select::ABS_INFO, axis) if codes(kind, EV_ABS).contains(&axis.into()) => {
            // Least, most, fuzz, flat, resolution.
            [0, u32::from(ABS_MOST), 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
        }
        _ => Vec::new(),
    }
}

/// The codes of one type of event that a device has.
pub(super) fn codes(kind: Kind, event: u16) -> Vec<u16> {
    match (kind, event) {
        (Kind::Keyboard, EV_KEY) => KEYS.collect(),
        (Kind::Keyboard, EV_LED) => LEDS.collect(),
        (Kind::Keyboard, EV_REP) => REPEATS.collect(),
        (Kind::Pointer, EV_KEY) => BUTTONS.collect(),
        (Kind::Pointer, EV_REL) => {
            vec![REL_HWHEEL, REL_WHEEL, REL_WHEEL_HI_RES, REL_HWHEEL_HI_RES]
        }
        (Kind::Pointer, EV_ABS) => vec![ABS_X, ABS_Y],
        _ => Vec::new(),
    }
}

/// A bit for each code, as many bytes as the highest needs.
fn bits(codes: &[u16]) -> Vec<u8> {
    let bytes = codes.iter().max().map_or(0, |highest| usize::from(highest / 8) + 1);
    let mut bits = vec![0; bytes];
    for code in codes {
        bits[usize::from(code / 8)] |= 1 << (code % 8);
    }
    bits
}

/// The whole space while `selected` of `of` is selected.
pub(super) fn space(kind: Kind, selected: u8, of: u8) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let answer = answer(kind, selected, of);
    let length = answer.len().min(UNION_BYTES);
    (space[0], space[1], space[2]) = (selected, of, length as u8);
    space[8..8 + length].copy_from_slice(&answer[..length]);
    space
}

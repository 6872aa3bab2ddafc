//! The devices as a driver sees them, well-behaved and otherwise.

use super::backlog::{Event, MOST_GROUPS};
use super::codes::{
    ABS_X, ABS_Y, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_REP, EV_SYN, REL_HWHEEL, REL_HWHEEL_HI_RES,
    REL_WHEEL, REL_WHEEL_HI_RES, SYN_REPORT, select,
};
use super::{Input, InputHandle};
use crate::Device;
use crate::test_support::{Buffer, TestDriver, attack};
use std::sync::{Arc, Mutex};

const KEY_A: u16 = 30;
const BTN_LEFT: u16 = 0x110;

struct Guest {
    driver: TestDriver,
    input: InputHandle,
    lamps: Arc<Mutex<Vec<u32>>>,
}

impl Guest {
    fn keyboard() -> Self {
        let lamps = Arc::<Mutex<Vec<u32>>>::default();
        let lit = lamps.clone();
        let show = Box::new(move |bits| lit.lock().unwrap().push(bits));
        let (device, input) = Input::keyboard("keyboard0", show).unwrap();
        Self { driver: TestDriver::start(Box::new(device)), input, lamps }
    }

    fn pointer() -> Self {
        let (device, input) = Input::pointer("pointer0").unwrap();
        Self { driver: TestDriver::start(Box::new(device)), input, lamps: Arc::default() }
    }

    /// Gives the device so many buffers.
    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            self.driver.add(0, &[Buffer::In(8)]);
        }
        self.driver.kick(0);
    }

    fn event(&mut self) -> (u16, u16, i32) {
        let used = self.driver.wait_used(0);
        assert_eq!(used.length, 8);
        let event = Event::decode(used.data.try_into().unwrap());
        (event.kind, event.code, event.value.cast_signed())
    }

    /// Gives as many buffers as these events need, and compares.
    fn gets(&mut self, events: &[(u16, u16, i32)]) {
        self.offer(events.len());
        for event in events {
            assert_eq!(self.event(), *event);
        }
    }

    fn counter(&mut self, name: &str) -> u64 {
        let counters = self.driver.device().counters();
        counters.iter().find(|(found, _)| *found == name).unwrap().1
    }

    /// What the device says about a selection.
    fn says(&mut self, selected: u8, of: u8) -> Vec<u8> {
        self.driver.device().write_config(0, &[selected]);
        self.driver.device().write_config(1, &[of]);
        let mut config = [0xff; 136];
        self.driver.device().read_config(0, &mut config);
        assert_eq!(config[..2], [selected, of]);
        assert!(config[3..8].iter().all(|byte| *byte == 0));
        config[8..8 + usize::from(config[2])].to_vec()
    }
}

const SYN: (u16, u16, i32) = (EV_SYN, SYN_REPORT, 0);

fn has(bits: &[u8], code: u16) -> bool {
    bits.get(usize::from(code / 8)).is_some_and(|byte| byte & 1 << (code % 8) != 0)
}

#[test]
fn a_keyboard_says_what_it_is() {
    let mut guest = Guest::keyboard();
    assert_eq!(guest.says(select::ID_NAME, 0), b"Macrohard keyboard");
    assert_eq!(guest.says(select::ID_SERIAL, 0), b"keyboard0");
    assert_eq!(guest.says(select::ID_DEVIDS, 0), [6, 0, 0xf4, 0x1a, 1, 0, 1, 0]);
    let keys = guest.says(select::EV_BITS, EV_KEY as u8);
    assert!(!has(&keys, 0) && has(&keys, 1) && has(&keys, 248) && !has(&keys, BTN_LEFT));
    assert_eq!(guest.says(select::EV_BITS, EV_LED as u8), [7]);
    assert_eq!(guest.says(select::EV_BITS, EV_REP as u8), [3]);
    for (selected, of) in [
        (select::EV_BITS, EV_REL as u8),
        (select::EV_BITS, EV_ABS as u8),
        (select::EV_BITS, 0xff),
        (select::ABS_INFO, 0),
        (select::PROP_BITS, 0),
        (select::ID_NAME, 1),
        (0, 0),
        (0xff, 0xff),
    ] {
        assert!(guest.says(selected, of).is_empty(), "{selected} {of}");
    }
}

#[test]
fn a_pointer_says_what_it_is() {
    let mut guest = Guest::pointer();
    let buttons = guest.says(select::EV_BITS, EV_KEY as u8);
    assert!(has(&buttons, BTN_LEFT) && has(&buttons, 0x117) && !has(&buttons, KEY_A));
    assert_eq!(guest.says(select::EV_BITS, EV_ABS as u8), [3]);
    let wheels = guest.says(select::EV_BITS, EV_REL as u8);
    for wheel in [REL_WHEEL, REL_HWHEEL, REL_WHEEL_HI_RES, REL_HWHEEL_HI_RES] {
        assert!(has(&wheels, wheel));
    }
    let axis = [0_u32, 32767, 0, 0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(guest.says(select::ABS_INFO, ABS_X as u8), axis);
    assert_eq!(guest.says(select::ABS_INFO, ABS_Y as u8), axis);
    assert!(guest.says(select::ABS_INFO, 2).is_empty());
    // Written whole, as QEMU does.
    let mut config = [0; 136];
    (config[0], config[1]) = (select::EV_BITS, EV_ABS as u8);
    guest.driver.device().write_config(0, &config);
    guest.driver.device().read_config(0, &mut config);
    assert_eq!((config[2], config[8]), (1, 3));
}

#[test]
fn keys_come_in_order_each_once() {
    let mut guest = Guest::keyboard();
    guest.input.key(KEY_A, true);
    // The host repeats; the guest does so by itself.
    guest.input.key(KEY_A, true);
    guest.input.key(KEY_A, false);
    guest.input.key(KEY_A, false);
    guest.input.key(42, true);
    guest.gets(&[(EV_KEY, KEY_A, 1), SYN, (EV_KEY, KEY_A, 0), SYN, (EV_KEY, 42, 1), SYN]);
    // No such key, and no such device.
    guest.input.key(BTN_LEFT, true);
    guest.input.key(0, true);
    guest.input.point(1, 1);
    guest.input.wheel(120, 0);
    assert_eq!(guest.counter("dropped"), 4);
    assert_eq!(guest.counter("events"), 6);
}

#[test]
fn a_pointer_moves_clicks_and_turns() {
    let mut guest = Guest::pointer();
    guest.input.point(5, u16::MAX);
    guest.input.key(BTN_LEFT, true);
    guest.gets(&[(EV_ABS, ABS_X, 5), (EV_ABS, ABS_Y, 32767), SYN, (EV_KEY, BTN_LEFT, 1), SYN]);
    guest.input.wheel(-240, 0);
    guest.gets(&[(EV_REL, REL_WHEEL_HI_RES, -240), (EV_REL, REL_WHEEL, -2), SYN]);
    // A touchpad's small steps make a detent together; a turn back begins anew.
    for _ in 0..2 {
        guest.input.wheel(0, 50);
        guest.gets(&[(EV_REL, REL_HWHEEL_HI_RES, 50), SYN]);
    }
    guest.input.wheel(0, 50);
    guest.gets(&[(EV_REL, REL_HWHEEL_HI_RES, 50), (EV_REL, REL_HWHEEL, 1), SYN]);
    guest.input.wheel(0, -119);
    guest.gets(&[(EV_REL, REL_HWHEEL_HI_RES, -119), SYN]);
    guest.input.wheel(0, -1);
    guest.gets(&[(EV_REL, REL_HWHEEL_HI_RES, -1), (EV_REL, REL_HWHEEL, -1), SYN]);
    // Nothing turned.
    guest.input.wheel(0, 0);
    assert_eq!(guest.counter("dropped"), 0);
}

#[test]
fn groups_wait_whole_for_buffers_and_places_nobody_saw_are_forgotten() {
    let mut guest = Guest::pointer();
    for x in 0..2000 {
        guest.input.point(x, 7);
    }
    guest.input.key(BTN_LEFT, true);
    guest.input.point(3, 4);
    guest.gets(&[(EV_ABS, ABS_X, 1999)]);
    // Begun, so that it stays as it is.
    guest.input.point(9, 9);
    guest.gets(&[(EV_ABS, ABS_Y, 7), SYN, (EV_KEY, BTN_LEFT, 1), SYN]);
    guest.gets(&[(EV_ABS, ABS_X, 9)]);
    guest.input.point(8, 8);
    guest.gets(&[(EV_ABS, ABS_Y, 9), SYN, (EV_ABS, ABS_X, 8), (EV_ABS, ABS_Y, 8), SYN]);
    assert_eq!(guest.counter("dropped"), 0);
}

#[test]
fn a_guest_that_takes_nothing_loses_presses_but_no_release() {
    let mut guest = Guest::keyboard();
    guest.input.key(29, true);
    for _ in 0..MOST_GROUPS {
        guest.input.key(KEY_A, true);
        guest.input.key(KEY_A, false);
    }
    guest.input.key(29, false);
    assert!(guest.counter("dropped") > 0);
    let mut held = std::collections::BTreeSet::new();
    // Whole groups only, and in the end nothing is held.
    guest.offer(64);
    let mut group = Vec::new();
    let mut last = None;
    for taken in 1.. {
        let (kind, code, value) = guest.event();
        if taken % 64 == 0 {
            guest.offer(64);
        }
        if (kind, code) != (EV_SYN, SYN_REPORT) {
            group.push((code, value));
            continue;
        }
        let (code, value) = group.pop().unwrap();
        assert!(group.is_empty());
        assert!(if value == 1 { held.insert(code) } else { held.remove(&code) });
        last = Some((code, value));
        if last == Some((29, 0)) {
            break;
        }
    }
    assert_eq!(last, Some((29, 0)));
    assert!(held.is_empty());
}

#[test]
fn nothing_comes_from_before_the_driver_and_a_reset_forgets() {
    let (mut device, input) = Input::pointer("pointer0").unwrap();
    input.point(1, 1);
    assert_eq!(device.counters()[1], ("dropped", 1));
    device.reset();
    let mut guest =
        Guest { driver: TestDriver::start(Box::new(device)), input, lamps: Arc::default() };
    guest.input.key(BTN_LEFT, true);
    guest.driver.reset();
    assert_eq!(guest.counter("dropped"), 3);
    // Not held any more, so that it can be pressed again.
    guest.input.key(BTN_LEFT, true);
    guest.gets(&[(EV_KEY, BTN_LEFT, 1), SYN]);
}

#[test]
fn a_pause_keeps_what_waits() {
    let mut guest = Guest::keyboard();
    guest.input.key(KEY_A, true);
    guest.driver.stop();
    guest.input.key(KEY_A, false);
    guest.driver.resume();
    guest.gets(&[(EV_KEY, KEY_A, 1), SYN, (EV_KEY, KEY_A, 0), SYN]);
}

#[test]
fn buffers_that_hold_no_event_are_given_back_and_the_event_waits() {
    let mut guest = Guest::keyboard();
    guest.driver.add(0, &[Buffer::In(7)]);
    guest.driver.add(0, &[Buffer::Out(b"12345678")]);
    guest.driver.add(0, &[Buffer::In(3), Buffer::In(9)]);
    guest.input.key(KEY_A, true);
    guest.driver.kick(0);
    assert_eq!([guest.driver.wait_used(0).length, guest.driver.wait_used(0).length], [0, 0]);
    assert_eq!(guest.driver.wait_used(0).length, 8);
    assert_eq!(guest.counter("refused"), 2);
    guest.gets(&[SYN]);
}

#[test]
fn lamps_are_lit_as_the_guest_says() {
    let mut guest = Guest::keyboard();
    let status = |guest: &mut Guest, kind: u16, code: u16, value: u32| {
        let event = Event { kind, code, value }.encode();
        guest.driver.request(1, &[Buffer::Out(&event)]);
    };
    status(&mut guest, EV_LED, 1, 1);
    status(&mut guest, EV_LED, 0, 1);
    status(&mut guest, EV_LED, 1, 0);
    assert_eq!(*guest.lamps.lock().unwrap(), [2, 3, 1]);
    // No such lamp, half lit, another type, and no event at all.
    status(&mut guest, EV_LED, 3, 1);
    status(&mut guest, EV_LED, 0, 2);
    status(&mut guest, EV_REP, 0, 250);
    guest.driver.request(1, &[Buffer::Out(b"1234567")]);
    assert_eq!(guest.counter("refused"), 4);
    guest.driver.stop();
    let saved = guest.driver.device().save();
    guest.driver.resume();
    guest.driver.reset();
    assert_eq!(*guest.lamps.lock().unwrap(), [2, 3, 1, 0]);
    guest.driver.stop();
    guest.driver.device().restore(&saved).unwrap();
    assert_eq!(*guest.lamps.lock().unwrap(), [2, 3, 1, 0, 1]);
    for bad in [r#"{"selected":[0,0],"lamps":8}"#, r#"{"selected":[0,256],"lamps":0}"#, "{}"] {
        let bad = serde_json::from_str(bad).unwrap();
        guest.driver.device().restore(&bad).unwrap_err();
    }
}

#[test]
fn a_hostile_driver_harms_only_itself() {
    for seed in 0..4 {
        let (device, input) = Input::keyboard("keyboard0", Box::new(|_| {})).unwrap();
        attack(Box::new(device), seed, |_, random| {
            input.key(random.below(300) as u16, random.one_in(2));
            let mut event = vec![0; 8];
            random.fill(&mut event);
            if random.one_in(2) {
                event[..4].copy_from_slice(&[EV_LED as u8, 0, random.below(4) as u8, 0]);
            }
            event
        });
        let (device, input) = Input::pointer("pointer0").unwrap();
        attack(Box::new(device), seed, |_, random| {
            input.point(random.next() as u16, random.next() as u16);
            input.wheel(random.next() as i32, random.next() as i32);
            vec![0; 8]
        });
    }
}

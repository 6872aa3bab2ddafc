//! Who sends what to whom.

use super::{NOW, x2apic, xapic};
use crate::apic::{Delivery, Destination, Effect, LocalApic, Message};

/// What a write of the command in xAPIC mode sends.
fn command(high: u32, low: u32) -> Effect {
    let mut apic = xapic(1);
    let _ = apic.write_page(0x310, high, NOW);
    let effect = apic.write_page(0x300, low, NOW);
    assert_eq!(apic.read_page(0x300, NOW) & 1 << 12, 0, "delivered at once");
    effect
}

fn sends(destination: Destination, delivery: Delivery, vector: u8) -> Effect {
    Effect::Send(Message { destination, delivery, vector, level: false })
}

#[test]
fn commands_become_messages() {
    let all = Destination::BROADCAST;
    assert_eq!(command(3 << 24, 0x4040), sends(Destination::Physical(3), Delivery::Fixed, 0x40));
    assert_eq!(
        command(3 << 24, 0x4940),
        sends(Destination::Logical(3), Delivery::LowestPriority, 0x40)
    );
    assert_eq!(
        command(0xff << 24, 0x4040),
        sends(Destination::Physical(all), Delivery::Fixed, 0x40)
    );
    assert_eq!(command(2 << 24, 0xc500), sends(Destination::Physical(2), Delivery::Init, 0));
    assert_eq!(command(2 << 24, 0x8500), Effect::None, "de-assertion");
    assert_eq!(command(2 << 24, 0x4609), sends(Destination::Physical(2), Delivery::StartUp, 9));
    assert_eq!(command(0, 0xc_4400), sends(Destination::AllButItself, Delivery::Nmi, 0));
    assert_eq!(command(0, 0x8_40fe), sends(Destination::All, Delivery::Fixed, 0xfe));
    assert_eq!(command(0, 0x4_4500), Effect::None, "INIT to itself");
    assert_eq!(command(0, 0x4340), Effect::None, "reserved kind of delivery");
    assert_eq!(command(0, 0x400f), Effect::None, "illegal vector");
    let mut apic = x2apic(1);
    let wide = apic.write_msr(0x830, 0x1_0003_0000_4040, NOW);
    assert_eq!(wide, Ok(sends(Destination::Physical(0x1_0003), Delivery::Fixed, 0x40)));
    assert_eq!(apic.read_msr(0x830, NOW), Ok(0x1_0003_0000_4040));
    let byte = apic.write_msr(0x830, 0xff_0000_4040, NOW);
    assert_eq!(byte, Ok(sends(Destination::Physical(0xff), Delivery::Fixed, 0x40)));
}

#[test]
fn to_itself_needs_no_one_else() {
    let mut apic = xapic(1);
    assert_eq!(apic.write_page(0x300, 0x4_4041, NOW), Effect::None);
    assert_eq!(apic.highest_pending(), Some(0x41));
    let mut apic = x2apic(1);
    assert_eq!(apic.write_msr(0x83f, 0x42, NOW), Ok(Effect::None));
    assert_eq!(apic.highest_pending(), Some(0x42));
    assert_eq!(apic.write_msr(0x83f, 0x0f, NOW), Ok(Effect::None));
    let _ = apic.write_msr(0x828, 0, NOW).unwrap();
    assert_eq!(apic.read_msr(0x828, NOW), Ok(0x20));
}

#[test]
fn device_messages() {
    let message = |destination, delivery, vector, level| {
        Some(Message { destination, delivery, vector, level })
    };
    let physical = Destination::Physical;
    assert_eq!(
        Message::signalled(0xfee0_3000, 0x40),
        message(physical(3), Delivery::Fixed, 0x40, false)
    );
    assert_eq!(
        Message::signalled(0xfee0_3004, 0xc140),
        message(Destination::Logical(3), Delivery::LowestPriority, 0x40, true)
    );
    assert_eq!(
        Message::signalled(0xfeef_f000, 0x4700),
        message(physical(Destination::BROADCAST), Delivery::External, 0, false)
    );
    assert_eq!(
        Message::signalled(0xfee0_1020, 0x41),
        message(physical(0x101), Delivery::Fixed, 0x41, false)
    );
    for (address, data) in [
        (0xfed0_0000, 0x40),
        (0x1_fee0_0000, 0x40),
        (0xfee0_0000, 0x8040),
        (0xfee0_0000, 0x340),
        (0xfee0_0000, 0x640),
    ] {
        assert_eq!(Message::signalled(address, data), None, "{address:#x} {data:#x}");
    }
}

fn logical(apic: &LocalApic, id: u32) -> bool {
    apic.reach().matches(Destination::Logical(id))
}

#[test]
fn destinations_of_eight_bits() {
    for id in 0..=254 {
        let apic = xapic(id);
        for destination in 0..=0x1ff {
            let expected = destination == id || destination == 0xff;
            assert_eq!(
                apic.reach().matches(Destination::Physical(destination)),
                expected,
                "{id} {destination}"
            );
        }
        assert!(apic.reach().matches(Destination::All));
        assert!(apic.reach().matches(Destination::Physical(Destination::BROADCAST)));
        assert!(!apic.reach().matches(Destination::Itself));
        assert!(!apic.reach().matches(Destination::AllButItself));
    }
    let mut apic = xapic(1);
    for own in 0..=255u32 {
        let _ = apic.write_page(0xd0, own << 24, NOW);
        let _ = apic.write_page(0xe0, u32::MAX, NOW);
        for id in 0..=255u32 {
            let common = (0..8).any(|bit| own >> bit & 1 == 1 && id >> bit & 1 == 1);
            assert_eq!(logical(&apic, id), common);
        }
        assert!(!logical(&apic, 0x100 | own));
        let _ = apic.write_page(0xe0, 0, NOW);
        for id in 0..=255u32 {
            let cluster = own / 16 == id / 16 || id / 16 == 15;
            let member = (0..4).any(|bit| own >> bit & 1 == 1 && id >> bit & 1 == 1);
            assert_eq!(logical(&apic, id), cluster && member);
        }
    }
}

#[test]
fn destinations_of_32_bits() {
    for id in [0, 1, 15, 16, 0x7f, 0xff, 0x100, 0x12345, 0xf_fff3] {
        let apic = x2apic(id);
        assert!(apic.reach().matches(Destination::Physical(id)));
        assert!(!apic.reach().matches(Destination::Physical(id ^ 1)));
        assert!(!apic.reach().matches(Destination::Physical(id | 1 << 31)));
        assert_eq!(apic.reach().matches(Destination::Physical(0xff)), id == 0xff);
        for cluster in [id >> 4, (id >> 4) ^ 1] {
            for bit in 0..16 {
                let destination = (cluster & 0xffff) << 16 | 1 << bit;
                let expected = cluster == id >> 4 && bit == id & 15;
                assert_eq!(logical(&apic, destination), expected, "{id:#x} {destination:#x}");
            }
        }
        assert!(logical(&apic, u32::MAX));
    }
}

//! Any calls with any structures: 2 bytes of number, 4 of pointer, 40 of structure each.
//! Run: `cargo +nightly fuzz run calls` in `crates/solo5`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use solo5::test_support::unikernel;
use solo5::{Block, Clock, Console, Devices, EntryKind, GuestMemory, Net, Tender, Unikernel};
use std::cell::RefCell;
use units::GuestPhysical;

const SIZE: usize = 64 << 10;

struct Memory(RefCell<Vec<u8>>);

impl GuestMemory for Memory {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        let end = address.0.checked_add(length);
        end.is_some_and(|end| end <= SIZE as u64)
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        if !self.holds(address, into.len() as u64) {
            return false;
        }
        into.copy_from_slice(&self.0.borrow()[address.0 as usize..][..into.len()]);
        true
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        if !self.holds(address, bytes.len() as u64) {
            return false;
        }
        self.0.borrow_mut()[address.0 as usize..][..bytes.len()].copy_from_slice(bytes);
        true
    }
}

/// A disk, a card, a console and a clock that check what they are asked.
struct World;

impl Console for World {
    fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= SIZE);
    }
}

impl Clock for World {
    fn wall(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        1
    }
}

impl Block for World {
    fn capacity(&self) -> u64 {
        8192
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        assert!(offset + into.len() as u64 <= 8192 && into.len() % 512 == 0);
        true
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        assert!(offset + bytes.len() as u64 <= 8192 && bytes.len() % 512 == 0);
        true
    }
}

impl Net for World {
    fn mac(&self) -> [u8; 6] {
        [2; 6]
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn send(&mut self, frame: &[u8]) {
        assert!((14..=1518).contains(&frame.len()));
    }

    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        (into.len() > 100).then_some(100)
    }

    fn ready(&mut self) -> bool {
        false
    }
}

fuzz_target!(|bytes: &[u8]| {
    let devices = [("disk", EntryKind::Block), ("card", EntryKind::Net)];
    let file = unikernel(2, &devices, &[0xf4]);
    let unikernel = Unikernel::read(&file).unwrap();
    let devices = Devices::attach(
        &unikernel.manifest,
        vec![Box::new(World)],
        vec![Box::new(World)],
    )
    .unwrap();
    let mut tender = Tender::new(devices, Box::new(World), Box::new(World));
    let memory = Memory(RefCell::new(vec![0; SIZE]));
    for call in bytes.chunks_exact(46) {
        let number = u16::from(call[0]);
        let pointer = u32::from_le_bytes([call[2], call[3], call[4], call[5] & 1]);
        let pointer = GuestPhysical(pointer.into());
        memory.write(pointer, &call[6..]);
        let _ = tender.call(&memory, number, pointer);
    }
});

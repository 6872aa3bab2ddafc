//! Window memory as a guest moves its BAR, and as the compositor gets it.

use super::{Rig, rig};
use crate::Machine;
use crate::native::processors::Board;
use std::fs::File;
use std::os::unix::fs::FileExt;

const SIZE: u64 = 256 << 20;

/// Number of the function on the bus, and the file behind it.
fn window_memory(rig: &Rig) -> (u8, File) {
    let pci = &rig.machine.board.pci;
    let id = |device| {
        let mut id = [0; 4];
        pci.read_config(device, 0, &mut id);
        id
    };
    let device = (1..31).find(|device| id(*device) == [0xf4, 0x1a, 0x10, 0x11]);
    let part = rig.machine.window_memory().expect("window memory");
    assert_eq!((part.offset, part.length.0), (0, SIZE));
    (device.expect("the function"), part.file.try_clone_to_owned().unwrap().into())
}

/// Where the engine has it.
fn mapped(rig: &Rig) -> Vec<u64> {
    let mapped = rig.script.mapped.lock().unwrap();
    mapped.iter().filter(|(_, size)| **size == SIZE).map(|(at, _)| *at).collect()
}

fn command(rig: &Rig, device: u8, bits: u16) {
    rig.machine.board.pci.write_config(device, 4, &bits.to_le_bytes());
}

#[test]
fn the_engine_maps_it_where_the_guest_puts_it_and_nowhere_else() {
    let rig = rig(1, false);
    let (device, _) = window_memory(&rig);
    let pci = &rig.machine.board.pci;
    assert_eq!(mapped(&rig), [0; 0], "not before the guest switches decoding on");
    command(&rig, device, 2);
    let [first] = mapped(&rig)[..] else { panic!("{:x?}", mapped(&rig)) };
    assert!(first >= 1 << 32 && first % SIZE == 0, "{first:#x}");
    // Moved: the upper half first, as Linux writes it.
    let second = first + 0x10_0000_0000;
    pci.write_config(device, 0x1c, &((second >> 32) as u32).to_le_bytes());
    assert_eq!(mapped(&rig), [second]);
    // Sized, and over RAM: nowhere.
    for low in [0xffff_ffff_u32, 0] {
        pci.write_config(device, 0x18, &low.to_le_bytes());
        pci.write_config(device, 0x1c, &low.to_le_bytes());
        assert_eq!(mapped(&rig), [0; 0]);
    }
    pci.write_config(device, 0x1c, &((first >> 32) as u32).to_le_bytes());
    assert_eq!(mapped(&rig), [first]);
    command(&rig, device, 0);
    assert_eq!(mapped(&rig), [0; 0]);
    rig.machine.quit().unwrap();
}

#[test]
fn what_the_guest_writes_is_in_the_file_and_the_other_way_round() {
    let rig = rig(1, false);
    let (device, file) = window_memory(&rig);
    command(&rig, device, 2);
    let at = mapped(&rig)[0];
    let board = &rig.machine.board;
    // An access that comes as an exit.
    board.write_memory(at + SIZE - 8, &0x0123_4567_89ab_cdef_u64.to_le_bytes());
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, SIZE - 8).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 0x0123_4567_89ab_cdef);
    file.write_all_at(b"host", 4096).unwrap();
    let mut bytes = [0; 4];
    board.read_memory(at + 4096, &mut bytes);
    assert_eq!(&bytes, b"host");
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    // Sparse: two pages and no more.
    use std::os::unix::fs::MetadataExt;
    assert!(file.metadata().unwrap().blocks() * 512 <= 4 << 20);
    rig.machine.quit().unwrap();
}

#[test]
fn it_keeps_what_it_holds_over_a_reset_and_goes_from_the_guests_memory() {
    let rig = rig(1, false);
    let (device, file) = window_memory(&rig);
    command(&rig, device, 2);
    file.write_all_at(b"kept", 0).unwrap();
    rig.machine.start().unwrap();
    rig.machine.reset().unwrap();
    assert_eq!(mapped(&rig), [0; 0], "decoding is off after a reset");
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
    rig.machine.quit().unwrap();
}

//! Guest memory: what is mapped, what is not, what was written.

use crate::machine::{Memory, machine, next_write};
use engine::{Access, EngineError, Exit, HostMapping};
use std::sync::Arc;
use units::GuestPhysical;

#[test]
fn memory_that_is_not_there_is_the_callers() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0xff, 0xff, // mov ax, 0xffff
            0x8e, 0xd8, // mov ds, ax
            0xa1, 0x10, 0x00, // mov ax, [0x10]: ffff:0010 is 0x100000, just past the memory
            0xe7, 0x80, // out 0x80, ax
            0xa3, 0x20, 0x00, // mov [0x20], ax
        ],
    );
    match cpu.run().expect("the guest runs") {
        Exit::MemoryRead { address, data } => {
            assert_eq!((address, data.len()), (0x10_0000, 2));
            data.copy_from_slice(&[0xcd, 0xab]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(next_write(cpu.as_mut()), (0x80, vec![0xcd, 0xab]));
    match cpu.run().expect("the guest runs") {
        Exit::MemoryWrite { address, data } => {
            assert_eq!((address, data), (0x10_0010, &[0xcd, 0xab][..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn flash_is_read_in_place_and_its_writes_exit() {
    let Some(machine) = machine(1) else { return };
    let flash = Memory::new(4096);
    flash.write(0, &[0x7e]);
    machine
        .partition
        .map(GuestPhysical(0x10_0000), Arc::clone(&flash) as Arc<dyn HostMapping>, Access::ReadOnly)
        .expect("read-only memory");
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0xff, 0xff, // mov ax, 0xffff
            0x8e, 0xd8, // mov ds, ax
            0xa0, 0x10, 0x00, // mov al, [0x10]
            0xe6, 0x80, // out 0x80, al
            0xa2, 0x11, 0x00, // mov [0x11], al
        ],
    );
    assert_eq!(next_write(cpu.as_mut()), (0x80, vec![0x7e]));
    match cpu.run().expect("the guest runs") {
        Exit::MemoryWrite { address, data } => {
            assert_eq!((address, data), (0x10_0001, &[0x7e][..]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(flash.byte(1), 0);
}

#[test]
fn the_dirty_log_names_the_pages_the_guest_wrote() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xe6, 0x80, // out 0x80, al
            0xa2, 0x00, 0x50, // mov [0x5000], al
            0xe6, 0x81, // out 0x81, al
        ],
    );
    next_write(cpu.as_mut());
    let first = machine.partition.dirty_pages(GuestPhysical(0)).expect("the log starts");
    assert_eq!(first, [u64::MAX; 4]);
    next_write(cpu.as_mut());
    let dirty = machine.partition.dirty_pages(GuestPhysical(0));
    assert_eq!(dirty.expect("the log"), [1 << 5, 0, 0, 0]);
    let again = machine.partition.dirty_pages(GuestPhysical(0));
    assert_eq!(again.expect("the log"), [0; 4]);
}

#[test]
fn a_mapping_over_another_is_refused_and_an_unmapped_one_is_gone() {
    let Some(machine) = machine(1) else { return };
    let more = Memory::new(8192);
    let map = |guest| {
        machine.partition.map(
            GuestPhysical(guest),
            Arc::clone(&more) as Arc<dyn HostMapping>,
            Access::ReadWrite,
        )
    };
    assert!(matches!(map(0xf_f000), Err(EngineError::Mapping { .. })));
    assert!(matches!(map(0x20_0001), Err(EngineError::Mapping { .. })));
    assert!(matches!(map(u64::MAX - 4095), Err(EngineError::Mapping { .. })));
    map(0x20_0000).expect("free");
    machine.partition.unmap(GuestPhysical(0x20_0000)).expect("was mapped");
    assert!(machine.partition.unmap(GuestPhysical(0x20_0000)).is_err());
    map(0x20_1000).expect("free again");
}

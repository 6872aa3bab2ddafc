//! Random accesses to a device's PCI function, with rings that work now and then.

use super::{BUFFERS, RINGS, Random, check_secret, memory};
use crate::Device;
use crate::pci::VirtioPci;
use pci::{Function, MsiMessage, MsiSink};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

/// Where the structures are, as the capabilities say.
const MSIX_BAR: u8 = 0;
const VIRTIO_BAR: u8 = 4;
const VIRTIO_BAR_SIZE: u64 = 0x4000;
const COMMON_SIZE: u64 = 0x3c;
const NOTIFY: u64 = 0x3000;

/// Accesses per round.
const ACCESSES: u32 = 20;

/// Interrupts that nobody hears.
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _message: MsiMessage) {}
}

/// Attacks the function that `device` becomes.
///
/// # Panics
/// When the function or a worker panics, or something writes to memory nobody named.
pub fn attack_pci(device: Box<dyn Device>, random: &mut Random) {
    let memory = memory();
    let offered = device.features() | 1 << 32 | 1 << 40;
    let mut function = VirtioPci::new(device, memory.clone(), Arc::new(Nowhere)).unwrap();
    while random.another_round() {
        if random.one_in(3) {
            bring_up(&mut function, offered & random.next() | 1 << 32);
        }
        for _ in 0..ACCESSES {
            access(&mut function, random);
        }
        request(&memory.memory(), random);
        match random.below(16) {
            0 => function.reset(),
            1 => function.pause(),
            2 => {
                function.pause();
                let state = function.save();
                function.restore(&state).expect("its own state");
            }
            _ => function.resume(),
        }
    }
    function.reset();
    check_secret(&memory);
}

fn access(function: &mut VirtioPci, random: &mut Random) {
    let length = random.pick(&[1, 2, 4, 8]);
    let mut data = [0; 8];
    random.fill(&mut data);
    let data = &mut data[..length];
    match random.below(9) {
        0 => function.write_config(random.below(4096 - 8) as u16, data),
        1 => function.read_config(random.below(4096 - 8) as u16, data),
        2 => function.write_bar(MSIX_BAR, random.below(0x1000), data),
        3 => function.read_bar(MSIX_BAR, random.below(0x1000), data),
        4 => function.read_bar(VIRTIO_BAR, random.below(VIRTIO_BAR_SIZE), data),
        5 => function.write_bar(VIRTIO_BAR, NOTIFY + random.below(64), data),
        6 => {
            // Ring addresses below the rings would name the secret; everything else is free.
            let at = random.below(VIRTIO_BAR_SIZE);
            if !(0x19..COMMON_SIZE).contains(&at) {
                function.write_bar(VIRTIO_BAR, at, data);
            }
        }
        7 => reset_queue(function, random.below(5), random.one_in(2)),
        _ => {
            let at = random.pick(&[0, 8, 0xc, 0x10, 0x14, 0x16, 0x18, 0x1a, 0x1c]);
            function.write_bar(VIRTIO_BAR, at, data);
        }
    }
}

/// Resets a queue, and lets it go on or not.
fn reset_queue(function: &mut VirtioPci, queue: u64, again: bool) {
    let mut write = |at: u64, length: usize, value: u64| {
        function.write_bar(VIRTIO_BAR, at, &value.to_le_bytes()[..length]);
    };
    write(0x16, 2, queue);
    write(0x3a, 2, 1);
    let at = RINGS + 0x1000 * (queue % 4);
    write(0x20, 8, at);
    write(0x28, 8, at + 0x100);
    write(0x30, 8, at + 0x200);
    write(0x1c, 2, again.into());
}

/// Reset to DRIVER_OK with every queue of 8 entries.
fn bring_up(function: &mut VirtioPci, features: u64) {
    let mut write = |at: u64, length: usize, value: u64| {
        function.write_bar(VIRTIO_BAR, at, &value.to_le_bytes()[..length]);
    };
    write(0x14, 1, 0);
    write(0x14, 1, 3);
    for half in 0..2 {
        write(0x08, 4, half);
        write(0x0c, 4, features >> (32 * half) & 0xffff_ffff);
    }
    write(0x14, 1, 0xb);
    for queue in 0..4 {
        let at = RINGS + 0x1000 * queue;
        write(0x16, 2, queue);
        write(0x18, 2, 8);
        write(0x1a, 2, queue);
        write(0x20, 8, at);
        write(0x28, 8, at + 0x100);
        write(0x30, 8, at + 0x200);
        write(0x1c, 2, 1);
    }
    write(0x14, 1, 0xf);
}

/// One descriptor of some queue, and an available index near or far.
fn request(memory: &GuestMemoryMmap, random: &mut Random) {
    let ring = RINGS + 0x1000 * random.below(4);
    let descriptor = ring + 16 * random.below(8);
    let address = BUFFERS + random.below(0x1_0000);
    memory.write_obj(address, GuestAddress(descriptor)).unwrap();
    let length = random.pick(&[0, 1, 16, 512, 4096, 0xffff_ffff]);
    let word = length | random.below(8) << 32 | random.below(9) << 48;
    memory.write_obj(word, GuestAddress(descriptor + 8)).unwrap();
    let entry = ring + 0x104 + 2 * random.below(8);
    memory.write_obj(random.below(9) as u16, GuestAddress(entry)).unwrap();
    let index = if random.one_in(10) { random.next() as u16 } else { random.below(8) as u16 };
    memory.write_obj(index, GuestAddress(ring + 0x102)).unwrap();
}

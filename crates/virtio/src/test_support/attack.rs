//! A driver that means harm: chains that loop, point outside memory, have no length or the wrong
//! direction; indices that jump; configuration full of noise.

use super::{BUFFERS, END, Random, TestDriver, check_secret};
use crate::Device;
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// Attacks `device` with the sequence of `seed`. `shape` gives the bytes of a well-formed request
/// for a queue, so that the attack gets past the first check now and then.
///
/// # Panics
/// When a worker panics, hangs, or writes to memory no writable descriptor covers.
pub fn attack(device: Box<dyn Device>, seed: u64, shape: impl FnMut(u16, &mut Random) -> Vec<u8>) {
    attack_with(device, &mut Random::new(seed), shape);
}

/// As [`attack`], with any sequence.
///
/// # Panics
/// As [`attack`].
pub fn attack_with(
    device: Box<dyn Device>,
    random: &mut Random,
    mut shape: impl FnMut(u16, &mut Random) -> Vec<u8>,
) {
    let mut driver = TestDriver::start(device);
    while random.another_round() {
        for queue in 0..u16::try_from(driver.rings.len()).unwrap() {
            for _ in 0..random.below(4) {
                chain(&mut driver, queue, random, &mut shape);
            }
            if random.one_in(40) {
                let index = random.next() as u16;
                driver.ring(queue).set_available(index);
            }
            driver.kick(queue);
        }
        config(&mut driver, random);
        if random.one_in(8) || driver.interrupts().seen().needs_reset {
            // Stopping waits for the worker: a hang shows here.
            driver.reset();
            check_secret(driver.memory());
        }
    }
}

fn chain(
    driver: &mut TestDriver,
    queue: u16,
    random: &mut Random,
    shape: &mut impl FnMut(u16, &mut Random) -> Vec<u8>,
) {
    let request = shape(queue, random);
    let size = driver.ring(queue).size();
    let mut bytes = vec![0; 1 + random.below(64) as usize];
    random.fill(&mut bytes);
    let start = if random.one_in(3) { &bytes } else { &request };
    // Bytes for the head of the chain, at a known place.
    let at = BUFFERS + random.below(64) * 4096;
    driver.memory.memory().write_slice(start, GuestAddress(at)).unwrap();
    let head = random.below(size.into()) as u16;
    let mut index = head;
    for link in 0..1 + random.below(5) {
        let mut flags = 0;
        if !random.one_in(4) {
            flags |= VRING_DESC_F_NEXT as u16;
        }
        if link > 0 && random.one_in(2) {
            flags |= VRING_DESC_F_WRITE as u16;
        }
        if random.one_in(16) {
            flags |= VRING_DESC_F_INDIRECT as u16;
        }
        let length = random.pick(&[0, 1, 16, 511, 512, 513, 4096, 0x1_0000, 0x10_0000, u32::MAX]);
        let (address, length) = if link == 0 && !random.one_in(8) {
            (at, start.len() as u32)
        } else {
            (address(random), length)
        };
        let next = random.below(u64::from(size) + 2) as u16;
        driver.ring(queue).write_descriptor(index, address, length, flags, next);
        if next >= size {
            break;
        }
        index = next;
    }
    let head = if random.one_in(30) { random.next() as u16 } else { head };
    driver.ring(queue).publish(head);
}

/// In the buffers, at the end of memory, past it, or so high that adding the length wraps around;
/// never below the buffers, where the secret is.
fn address(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next() | END,
        1 => END - random.below(0x2000),
        2 => u64::MAX - random.below(0x1000),
        _ => BUFFERS + random.below(0x10_0000),
    }
}

fn config(driver: &mut TestDriver, random: &mut Random) {
    let offset = if random.one_in(4) { random.next() } else { random.below(80) };
    let mut data = [0; 8];
    let length = random.pick(&[1, 2, 4, 8]);
    random.fill(&mut data);
    driver.device().write_config(offset, &data[..length]);
    driver.device().read_config(offset, &mut data[..length]);
}

//! A driver in miniature against each device, and one that breaks every rule.

use super::*;
use crate::GuestRam;
use crate::ram::tests::ram;
use crate::test_core::{console, shown};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use std::vec;

const MEMORY: u64 = 0x8000;
/// Where queue `n` has its rings, and where buffers are.
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x4000;
const ENTRIES: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

struct Driver {
    bus: MmioBus,
    ram: GuestRam,
    available: [u16; 2],
    line: bool,
}

impl Driver {
    fn new(device: Box<dyn Device>) -> Self {
        let ram = ram(MEMORY);
        let mut driver = Self {
            bus: MmioBus::new(vec![device], ram.clone()),
            ram,
            available: [0; 2],
            line: false,
        };
        assert_eq!(driver.read(0), u32::from_le_bytes(*b"virt"));
        // Acknowledge, driver; VERSION_1; features ok.
        driver.write(0x70, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(0x70, 11);
        assert_eq!(driver.read(0x70) & 8, 8);
        for queue in 0..2 {
            driver.write(0x30, queue);
            if driver.read(0x34) == 0 {
                continue;
            }
            let rings = RINGS as u32 + queue * 0x1000;
            for (register, value) in [
                (0x38, ENTRIES.into()),
                (0x80, rings),
                (0x90, rings + 0x400),
                (0xa0, rings + 0x800),
                (0x44, 1),
            ] {
                driver.write(register, value);
            }
            assert_eq!(driver.read(0x44), 1);
        }
        driver.write(0x70, 15);
        driver
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        assert!(self.bus.read(MMIO_BASE + register, &mut bytes));
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, register: u64, value: u32) {
        let written = self.bus.write(MMIO_BASE + register, &value.to_le_bytes());
        self.line = written.unwrap().asserted;
    }

    /// Offers a chain on `queue`: address, length and whether the device may write.
    fn offer(&mut self, queue: usize, chain: &[(u64, u32, bool)]) {
        let rings = RINGS + queue as u64 * 0x1000;
        for (index, (address, length, write)) in chain.iter().enumerate() {
            let more = if index + 1 < chain.len() { NEXT } else { 0 };
            let flags = more | if *write { WRITE } else { 0 };
            let mut descriptor = address.to_le_bytes().to_vec();
            descriptor.extend(length.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            self.ram.write(rings + 16 * index as u64, &descriptor);
        }
        let slot = u64::from(self.available[queue] % ENTRIES);
        self.ram.write(rings + 0x404 + 2 * slot, &[0, 0]);
        self.available[queue] = self.available[queue].wrapping_add(1);
        let index = self.available[queue].to_le_bytes();
        self.ram.write(rings + 0x402, &index);
        self.write(0x50, queue as u32);
    }

    /// Bytes the device wrote into the last chain it gave back on `queue`, when it gave back all.
    fn given_back(&self, queue: usize) -> Option<u32> {
        let rings = RINGS + queue as u64 * 0x1000;
        let mut index = [0; 2];
        self.ram.read(rings + 0x802, &mut index);
        let index = u16::from_le_bytes(index);
        (index == self.available[queue]).then(|| {
            let slot = u64::from(index.wrapping_sub(1) % ENTRIES);
            let mut length = [0; 4];
            self.ram.read(rings + 0x804 + 8 * slot + 4, &mut length);
            u32::from_le_bytes(length)
        })
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        assert_eq!(self.ram.read(at, &mut bytes), length);
        bytes
    }

    /// A request to a block device; gives its status.
    fn block(&mut self, kind: u32, sector: u64, length: u32) -> u8 {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend(0u32.to_le_bytes());
        header.extend(sector.to_le_bytes());
        self.ram.write(BUFFERS, &header);
        let status = BUFFERS + 0x20;
        self.ram.write(status, &[0xee]);
        let data = (BUFFERS + 0x100, length, kind != 1);
        let mut chain = vec![(BUFFERS, 16, false), data, (status, 1, true)];
        chain.retain(|(_, length, _)| *length > 0);
        self.offer(0, &chain);
        self.bytes(status, 1)[0]
    }
}

fn disk() -> Driver {
    let mut contents = vec![0x11; 3 * 512 + 100];
    contents[512..516].copy_from_slice(b"sect");
    let disk = MemoryDisk::new(contents.leak());
    Driver::new(Box::new(Block::new(Box::new(disk), "a disk")))
}

#[test]
fn a_disk_gives_back_what_was_written_and_the_file_where_nothing_was() {
    let mut driver = disk();
    assert_eq!(driver.read(0x100), 4, "sectors");
    assert_eq!(driver.block(0, 1, 512), 0);
    assert_eq!(driver.bytes(BUFFERS + 0x100, 5), b"sect\x11");
    assert_eq!(driver.given_back(0), Some(513));
    assert!(driver.line);
    driver.write(0x64, 1);
    assert!(!driver.line);

    driver.ram.write(BUFFERS + 0x100, &[0x77; 1024]);
    assert_eq!(driver.block(1, 2, 1024), 0);
    assert_eq!(driver.block(4, 0, 0), 0, "flush");
    assert_eq!(driver.block(0, 0, 2048), 0);
    let all = driver.bytes(BUFFERS + 0x100, 2048);
    assert_eq!(&all[512..516], b"sect");
    assert!(all[1024..].iter().all(|byte| *byte == 0x77));
    assert_eq!(driver.block(8, 0, 20), 0, "identity");
    assert_eq!(driver.bytes(BUFFERS + 0x100, 7), b"a disk\0");
}

#[test]
fn an_access_past_the_end_fails_and_changes_nothing() {
    let mut driver = disk();
    driver.ram.write(BUFFERS + 0x100, &[0x77; 1024]);
    for (sector, length) in [(4, 512), (3, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 100)] {
        assert_eq!(driver.block(1, sector, length), 1, "{sector} {length}");
        assert_eq!(driver.block(0, sector, length), 1, "{sector} {length}");
    }
    assert_eq!(driver.block(77, 0, 512), 2);
    assert_eq!(driver.block(0, 3, 512), 0);
    assert_eq!(driver.bytes(BUFFERS + 0x100, 101)[99..], [0x11, 0], "the file's end");
}

#[test]
fn frames_reach_the_card_they_are_for() {
    let switch = Arc::new(Switch::default());
    let woken = Arc::new(AtomicU32::new(0));
    let mut cards: Vec<Driver> = (0..3)
        .map(|n| {
            let woken = Arc::clone(&woken);
            let port = switch.join(move || {
                woken.fetch_or(1 << n, Ordering::Relaxed);
            });
            Driver::new(Box::new(Net::new(port)))
        })
        .collect();
    for card in &mut cards {
        card.offer(0, &[(BUFFERS, 2048, true)]);
    }
    let mac = |card: &mut Driver| {
        let mut bytes = [0; 6];
        assert!(card.bus.read(MMIO_BASE + 0x100, &mut bytes));
        bytes
    };
    let to = mac(&mut cards[1]);
    let frame = [&to[..], b"sender", b"\x08\x00some text"].concat();
    cards[0].ram.write(BUFFERS + 0x1000 + 12, &frame);
    let length = 12 + frame.len() as u32;
    cards[0].offer(1, &[(BUFFERS + 0x1000, length, false)]);
    assert_eq!(cards[0].given_back(1), Some(0));
    assert_eq!(woken.load(Ordering::Relaxed), 0b010);
    for card in &mut cards {
        card.bus.poll(|_, _| {});
    }
    assert_eq!(cards[1].given_back(0), Some(length));
    assert_eq!(cards[1].bytes(BUFFERS + 12, frame.len()), frame);
    assert_eq!((cards[0].given_back(0), cards[2].given_back(0)), (None, None));

    // To everyone: to all but the sender.
    cards[0].ram.write(BUFFERS + 0x1000 + 12, &[0xff; 60]);
    cards[0].offer(1, &[(BUFFERS + 0x1000, 72, false)]);
    assert_eq!(woken.load(Ordering::Relaxed), 0b110);
    for card in &mut cards {
        card.bus.poll(|_, _| {});
    }
    assert_eq!(cards[2].given_back(0), Some(72));
    assert_eq!(cards[0].given_back(0), None);

    // Longer than a frame is, or shorter: nowhere.
    woken.store(0, Ordering::Relaxed);
    cards[0].offer(1, &[(BUFFERS, 0x3000, false)]);
    cards[0].offer(1, &[(BUFFERS, 20, false)]);
    assert_eq!(woken.load(Ordering::Relaxed), 0);
}

#[test]
fn a_console_prints_and_takes_what_is_typed_once_it_spoke() {
    let console = console();
    let source = console.lock().add("a");
    let screen = crate::guest::Screen::new(console, source, || 0);
    let mut driver = Driver::new(Box::new(VirtioConsole::new(Box::new(screen))));
    assert!(!driver.bus.typed(b"x"), "nobody listens there yet");
    driver.ram.write(BUFFERS, b"out\n");
    driver.offer(1, &[(BUFFERS, 4, false)]);
    assert_eq!(shown(), "a| out\r\n");
    assert!(driver.bus.typed(b"in"));
    driver.offer(0, &[(BUFFERS + 0x100, 64, true)]);
    assert_eq!(driver.given_back(0), Some(2));
    assert_eq!(driver.bytes(BUFFERS + 0x100, 2), b"in");
}

#[test]
fn a_driver_that_does_not_speak_version_1_gets_no_features_ok() {
    let mut driver = disk();
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x44), 0, "queues are off after a reset");
    driver.write(0x70, 11);
    assert_eq!(driver.read(0x70), 3);
}

#[test]
fn a_broken_ring_asks_for_a_reset_and_nothing_more_happens() {
    let cycle = |driver: &mut Driver| {
        // Descriptor 1 follows itself.
        driver.offer(0, &[(BUFFERS, 16, false), (BUFFERS, 16, false)]);
        driver.ram.write(RINGS + 16 + 12, &NEXT.to_le_bytes());
        driver.ram.write(RINGS + 16 + 14, &1u16.to_le_bytes());
        driver.ram.write(RINGS + 0x402, &2u16.to_le_bytes());
        driver.write(0x50, 0);
    };
    let jump = |driver: &mut Driver| {
        driver.ram.write(RINGS + 0x402, &1000u16.to_le_bytes());
        driver.write(0x50, 0);
    };
    let beyond = |driver: &mut Driver| {
        driver.ram.write(RINGS + 0x404, &ENTRIES.to_le_bytes());
        driver.ram.write(RINGS + 0x402, &1u16.to_le_bytes());
        driver.write(0x50, 0);
    };
    let headless =
        |driver: &mut Driver| driver.offer(0, &[(BUFFERS, 8, false), (BUFFERS, 1, true)]);
    let mute = |driver: &mut Driver| driver.offer(0, &[(BUFFERS, 16, false)]);
    let breaks: [&dyn Fn(&mut Driver); 5] = [&cycle, &jump, &beyond, &headless, &mute];
    for (number, break_it) in breaks.into_iter().enumerate() {
        let mut driver = disk();
        break_it(&mut driver);
        assert_eq!(driver.read(0x70) & 64, 64, "{number}");
        assert!(driver.line, "{number}");
        assert_eq!(driver.block(0, 0, 512), 0xee, "{number}");
        driver.write(0x70, 0);
        assert_eq!(driver.read(0x70), 0);
    }
}

/// xorshift64 (Marsaglia 2003): the same attacks on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn whatever_a_driver_does_the_device_survives() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let switch = Arc::new(Switch::default());
    for round in 0..600 {
        let mut driver = match round % 3 {
            0 => disk(),
            1 => Driver::new(Box::new(Net::new(switch.join(|| {})))),
            _ => {
                let console = console();
                let source = console.lock().add("a");
                let screen = crate::guest::Screen::new(console, source, || 0);
                Driver::new(Box::new(VirtioConsole::new(Box::new(screen))))
            }
        };
        for _ in 0..40 {
            let value = random.next();
            match random.next() % 6 {
                // Rings and buffers of noise, near the limits of memory too.
                0 => {
                    let at = random.next() % MEMORY;
                    driver.ram.write(at, &value.to_le_bytes());
                }
                1 => {
                    let at = RINGS + 0x402 + random.next() % 2 * 0x1000;
                    driver.ram.write(at, &(value as u16 % 40).to_le_bytes());
                }
                2 => driver.write(0x50, value as u32 % 3),
                3 => driver.write(random.next() % 0x400 * 4 % 0x1000, value as u32),
                4 => {
                    let mut data = [0; 8];
                    let width = 1 + (value % 8) as usize;
                    let at = MMIO_BASE + random.next() % 0x1010;
                    driver.bus.read(at, &mut data[..width]);
                    driver.bus.write(at, &data[..width]);
                }
                _ => {
                    driver.bus.typed(b"typed");
                    driver.bus.poll(|_, _| {});
                }
            }
        }
    }
}

//! Gives a virtio device virtqueues no driver would: rings at impossible addresses, descriptors that
//! loop, point outside memory, claim gigabytes, or change direction mid-chain; then rings the doorbell.
//!
//! Offsets are those of the modern PCI transport (virtio 1.2 4.1.4).

use crate::garbage::{Bar, functions};
use crate::{Random, Result};
use rustix::mm::{MapFlags, MlockFlags, ProtFlags};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// virtio 1.2 4.1.4.3: the common configuration structure.
mod common {
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const STATUS: usize = 20;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_DESC: usize = 32;
    pub(super) const QUEUE_DRIVER: usize = 40;
    pub(super) const QUEUE_DEVICE: usize = 48;
}

/// Status bits ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK (virtio 1.2 2.1).
const STEPS: [u64; 4] = [1, 3, 11, 15];
/// Vendor of every virtio device (virtio 1.2 4.1.2).
const VENDOR: &str = "0x1af4";
/// Entries of the rings this program makes.
const ENTRIES: u16 = 16;
const PAGE: usize = 4096;

pub(crate) fn run(device: &str, seed: u64, rounds: u32) -> Result {
    let mut random = Random::new(seed);
    let mut abused = 0;
    for function in functions()? {
        let name = function.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if device != "all" && device != name {
            continue;
        }
        let vendor = std::fs::read_to_string(function.join("vendor"))?;
        if vendor.trim() != VENDOR {
            continue;
        }
        let _ = std::fs::write(function.join("driver/unbind"), &name);
        std::fs::write(function.join("enable"), "1")?;
        let structures = structures(&function)?;
        for _ in 0..rounds {
            abuse(&structures, &mut random)?;
        }
        println!("abused {name}: {rounds} rounds");
        abused += 1;
    }
    if abused == 0 {
        Err(format!("no virtio PCI device matches `{device}`").into())
    } else {
        Ok(())
    }
}

/// The places of a device's structures.
struct Structures {
    bars: Vec<Option<Bar>>,
    common: (usize, usize),
    notify: (usize, usize, usize),
}

/// Reads the vendor capabilities (virtio 1.2 4.1.4): type, BAR, offset, length.
fn structures(function: &Path) -> Result<Structures> {
    let config = OpenOptions::new().read(true).write(true).open(function.join("config"))?;
    let mut bytes = [0_u8; 256];
    config.read_exact_at(&mut bytes, 0)?;
    // Bus master and memory decoding (PCI 3.0 6.2.2).
    config.write_all_at(&[bytes[4] | 6], 4)?;
    let word = |at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
    };
    let (mut common, mut notify) = (None, None);
    let mut at = usize::from(bytes[0x34]);
    let mut left = 32;
    while (0x40..=0xec).contains(&at) && left > 0 {
        left -= 1;
        if bytes[at] == 9 {
            let (bar, offset, length) = (usize::from(bytes[at + 4]), word(at + 8), word(at + 12));
            match bytes[at + 3] {
                1 => common = Some((bar, offset)),
                2 => notify = Some((bar, offset, length)),
                _ => {}
            }
        }
        at = usize::from(bytes[at + 1]);
    }
    Ok(Structures {
        bars: (0..6).map(|bar| Bar::open(&function.join(format!("resource{bar}"))).ok()).collect(),
        common: common.ok_or("no common configuration capability")?,
        notify: notify.ok_or("no notification capability")?,
    })
}

/// One page of this guest's memory whose physical address is known (proc/PID/pagemap, root only).
struct Page {
    address: *mut u8,
    physical: u64,
}

impl Page {
    fn new() -> Result<Self> {
        // SAFETY: a new private anonymous page at a place the kernel chooses.
        let address = unsafe {
            let address = rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?;
            rustix::mm::mlock_with(address, PAGE, MlockFlags::empty())?;
            address.cast::<u8>()
        };
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")?
            .read_exact_at(&mut entry, (address as u64 / PAGE as u64) * 8)?;
        let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
        if frame == 0 {
            return Err("the page has no visible physical address: not root?".into());
        }
        Ok(Self { address, physical: frame * PAGE as u64 })
    }

    fn set(&self, offset: usize, value: &[u8]) {
        assert!(offset + value.len() <= PAGE, "offset {offset}");
        for (index, byte) in value.iter().enumerate() {
            // SAFETY: inside the page this value owns, as just checked; the device may write it at the
            // same time, hence volatile.
            unsafe { self.address.add(offset + index).write_volatile(*byte) };
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping this value made.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), PAGE) };
    }
}

fn abuse(device: &Structures, random: &mut Random) -> Result {
    let (bar, offset) = device.common;
    let registers = device
        .bars
        .get(bar)
        .and_then(Option::as_ref)
        .ok_or("the common configuration's BAR cannot be mapped")?;
    let write = |at: usize, size: usize, value: u64| registers.write(offset + at, size, value);
    let page = Page::new()?;
    write(common::STATUS, 1, 0);
    write(common::STATUS, 1, STEPS[0]);
    write(common::STATUS, 1, STEPS[1]);
    // VIRTIO_F_VERSION_1 alone, or any bits at all.
    let features = if random.below(3) == 0 { random.next() } else { 1 << 32 };
    for half in 0..2 {
        write(common::DRIVER_FEATURE_SELECT, 4, half);
        write(common::DRIVER_FEATURE, 4, features >> (32 * half));
    }
    write(common::STATUS, 1, STEPS[2]);
    let queues = 1 + random.below(4);
    for queue in 0..queues {
        write(common::QUEUE_SELECT, 2, if random.below(10) == 0 { random.next() } else { queue });
        let size = if random.below(4) == 0 { random.below(0x1_0000) } else { u64::from(ENTRIES) };
        write(common::QUEUE_SIZE, 2, size);
        for at in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            let address = match random.below(6) {
                0 => random.next(),
                1 => u64::MAX - random.below(64),
                _ => page.physical + ((at - common::QUEUE_DESC) as u64) * 64,
            };
            write(at, 4, address);
            write(at + 4, 4, address >> 32);
        }
        write(common::QUEUE_ENABLE, 2, 1);
    }
    fill(&page, random);
    write(common::STATUS, 1, STEPS[3]);
    let (bar, offset, length) = device.notify;
    let doorbells = device
        .bars
        .get(bar)
        .and_then(Option::as_ref)
        .ok_or("the notification BAR cannot be mapped")?;
    for _ in 0..8 {
        let place = usize::try_from(random.below((length / 2).max(1) as u64))? * 2;
        doorbells.write(
            offset + if random.below(2) == 0 { 0 } else { place },
            2,
            random.below(queues),
        );
        fill(&page, random);
    }
    write(common::STATUS, 1, 0);
    Ok(())
}

/// Descriptors at 0, the available ring at 512, the used ring at 1024 of the page.
fn fill(page: &Page, random: &mut Random) {
    for index in 0..usize::from(ENTRIES) {
        let address = match random.below(5) {
            0 => random.next(),
            1 => u64::MAX - random.below(4096),
            2 => 0xfee0_0000,
            _ => page.physical + random.below(PAGE as u64),
        };
        let length = match random.below(4) {
            0 => u32::MAX,
            1 => 0,
            _ => u32::try_from(random.below(8192)).unwrap_or(0),
        };
        // NEXT, WRITE, INDIRECT in every combination (virtio 1.2 2.7.5); next may point anywhere.
        let flags = u16::try_from(random.below(8)).unwrap_or(0);
        let next = u16::try_from(random.below(u64::from(ENTRIES) + 4)).unwrap_or(0);
        page.set(index * 16, &address.to_le_bytes());
        page.set(index * 16 + 8, &length.to_le_bytes());
        page.set(index * 16 + 12, &flags.to_le_bytes());
        page.set(index * 16 + 14, &next.to_le_bytes());
    }
    let available = u16::try_from(random.below(0x1_0000)).unwrap_or(0);
    page.set(512 + 2, &available.to_le_bytes());
    for index in 0..usize::from(ENTRIES) {
        let head = u16::try_from(random.below(u64::from(ENTRIES) + 2)).unwrap_or(0);
        page.set(512 + 4 + index * 2, &head.to_le_bytes());
    }
}

//! Writes garbage where the machine's devices listen: I/O ports through `/dev/port`, the registers of
//! PCI functions through `/sys/bus/pci`. The VM process must answer all of it within the PCI and
//! virtio rules; this program only has to survive as root of a guest it is about to ruin.

use crate::{Random, Result};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Ports left alone, because a legitimate use of them ends the test: keyboard controller reset
/// (0x64), reset control (0xcf9), debug exit (0xf4), hypercall exit (0xec), the first UART that
/// carries this report (0x3f8-0x3ff). Port 0x92 and the ACPI block are left out likewise: their
/// proper use resets or powers off the machine.
const SPARED: &[(u16, u16)] = &[
    (0x60, 0x64),
    (0x92, 0x92),
    (0xec, 0xec),
    (0xf4, 0xf4),
    (0x3f8, 0x3ff),
    (0x600, 0x67f),
    (0xcf8, 0xcff),
    (0xb000, 0xb0ff),
];

pub(crate) fn run(seed: u64, rounds: u32) -> Result {
    let mut random = Random::new(seed);
    let ports = OpenOptions::new().read(true).write(true).open("/dev/port")?;
    let mut writes = 0_u64;
    // Every port once, then random ones.
    for port in 0..=u16::MAX {
        writes += u64::from(poke(&ports, port, &mut random)?);
    }
    for _ in 0..rounds.saturating_mul(16) {
        #[allow(clippy::cast_possible_truncation, reason = "any 16 bits will do")]
        let port = random.next() as u16;
        writes += u64::from(poke(&ports, port, &mut random)?);
    }
    println!("garbage: {writes} writes to ports");
    for function in functions()? {
        let mut touched = 0;
        for bar in 0..6 {
            touched += scribble(&function.join(format!("resource{bar}")), rounds, &mut random)
                .unwrap_or(0);
        }
        println!("garbage: {} {touched} writes to BARs", function.display());
        touched = configuration(&function.join("config"), rounds, &mut random)?;
        println!("garbage: {} {touched} writes to configuration space", function.display());
    }
    Ok(())
}

/// All PCI functions.
pub(crate) fn functions() -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir("/sys/bus/pci/devices")?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn poke(ports: &File, port: u16, random: &mut Random) -> Result<bool> {
    if SPARED.iter().any(|(first, last)| (*first..=*last).contains(&port)) {
        return Ok(false);
    }
    let value = random.next().to_le_bytes();
    ports.write_all_at(&value[..1], u64::from(port))?;
    let mut back = [0];
    ports.read_exact_at(&mut back, u64::from(port))?;
    Ok(true)
}

fn configuration(path: &Path, rounds: u32, random: &mut Random) -> Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    for _ in 0..rounds {
        let value = random.next().to_le_bytes();
        let length = 1 << random.below(3);
        // The standard header and the capabilities; offset 4 (command) too.
        let offset = random.below(256 / length) * length;
        let length = usize::try_from(length)?;
        // The kernel may refuse a register it guards; the machine must take the others.
        let _ = file.write_all_at(&value[..length], offset);
    }
    Ok(u64::from(rounds))
}

/// A mapped BAR.
pub(crate) struct Bar {
    address: *mut u8,
    length: usize,
}

impl Bar {
    /// Maps the whole of a `resourceN` file of a memory BAR.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len())?;
        if length == 0 {
            return Err(format!("{} is empty", path.display()).into());
        }
        // SAFETY: a new shared mapping of device registers at a place the kernel chooses; it aliases
        // no Rust object.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        Ok(Self { address: address.cast(), length })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Writes the low `size` (1, 2, 4) bytes of a value at an aligned offset inside the BAR.
    pub(crate) fn write(&self, offset: usize, size: usize, value: u64) {
        assert!(
            offset.is_multiple_of(size) && offset + size <= self.length,
            "offset {offset:#x} size {size}"
        );
        let value = value.to_le_bytes();
        // SAFETY: inside the live mapping and aligned, as just checked; device registers have no
        // Rust invariants.
        unsafe {
            let place = self.address.add(offset);
            match size {
                1 => place.write_volatile(value[0]),
                2 => place.cast::<u16>().write_volatile(u16::from_le_bytes([value[0], value[1]])),
                _ => place
                    .cast::<u32>()
                    .write_volatile(u32::from_le_bytes([value[0], value[1], value[2], value[3]])),
            }
        }
    }

    /// Reads `size` (1, 2, 4) bytes at an aligned offset inside the BAR.
    pub(crate) fn read(&self, offset: usize, size: usize) -> u32 {
        assert!(
            offset.is_multiple_of(size) && offset + size <= self.length,
            "offset {offset:#x} size {size}"
        );
        // SAFETY: inside the live mapping and aligned, as just checked.
        unsafe {
            let place = self.address.add(offset);
            match size {
                1 => u32::from(place.read_volatile()),
                2 => u32::from(place.cast::<u16>().read_volatile()),
                _ => place.cast::<u32>().read_volatile(),
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: the mapping this value made, used by nothing else.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), self.length) };
    }
}

fn scribble(path: &Path, rounds: u32, random: &mut Random) -> Result<u64> {
    let bar = Bar::open(path)?;
    for _ in 0..rounds {
        let size = 1_usize << random.below(3);
        let offset = usize::try_from(random.below((bar.length() / size) as u64))? * size;
        if random.below(4) == 0 {
            bar.read(offset, size);
        } else {
            bar.write(offset, size, random.next());
        }
    }
    Ok(u64::from(rounds))
}

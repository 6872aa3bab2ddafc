//! PVH start information: how QEMU's `-kernel` and the core itself start a 32-bit or 64-bit program
//! without firmware (Xen `public/arch-x86/hvm/start_info.h`, Xen docs/misc/pvh).
//!
//! EBX holds the physical address of [`StartInfo`]; it names a module list, a memory map and a command
//! line, all by physical address. The caller reads those bytes; this module gives them meaning.

use crate::bytes::{put, text, u32_at, u64_at};
use crate::memory_map::{Kind, Span};
use units::{Bytes, HostPhysical};

/// First word of the structure: "xEn3" with the top bit of "E" set.
pub const MAGIC: u32 = 0x336e_c578;
/// The first version that has a memory map.
pub const VERSION: u32 = 1;
/// Owner of the ELF note that names the 32-bit entry.
pub const NOTE_NAME: &[u8; 4] = b"Xen\0";
/// XEN_ELFNOTE_PHYS32_ENTRY: physical address of the 32-bit entry (Xen `public/elfnote.h`).
pub const NOTE_PHYS32_ENTRY: u32 = 18;

/// What the structure at EBX says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartInfo {
    /// SIF_* flags; zero outside Xen.
    pub flags: u32,
    /// Entries of the module list.
    pub modules: u32,
    /// Where the module list lies: [`Module::SIZE`] bytes each.
    pub module_list: HostPhysical,
    /// Where the command line lies, zero-terminated; 0 for none.
    pub command_line: HostPhysical,
    /// Where the ACPI root pointer lies; 0 when unknown.
    pub rsdp: HostPhysical,
    /// Where the memory map lies: [`MemoryEntry::SIZE`] bytes each.
    pub memory_map: HostPhysical,
    /// Entries of the memory map.
    pub memory_entries: u32,
}

/// Why start information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than the structure has.
    Short {
        /// Bytes there are.
        found: usize,
    },
    /// The first word is not [`MAGIC`].
    Magic {
        /// The first word.
        found: u32,
    },
    /// Version 0 has no memory map.
    Version {
        /// The version.
        found: u32,
    },
    /// The buffer to write into is too small.
    Space {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
}

impl StartInfo {
    /// Bytes of the structure.
    pub const SIZE: usize = 56;

    /// Reads the structure from its bytes; more than [`Self::SIZE`] is fine.
    ///
    /// # Errors
    /// It is shorter, or is something else, or has no memory map.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let short = Error::Short { found: bytes.len() };
        let word = |offset| u32_at(bytes, offset).ok_or(short);
        let address = |offset| u64_at(bytes, offset).map(HostPhysical).ok_or(short);
        let magic = word(0)?;
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        let version = word(4)?;
        if version < VERSION {
            return Err(Error::Version { found: version });
        }
        Ok(Self {
            flags: word(8)?,
            modules: word(12)?,
            module_list: address(16)?,
            command_line: address(24)?,
            rsdp: address(32)?,
            memory_map: address(40)?,
            memory_entries: word(48)?,
        })
    }

    /// The structure as it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 4, &VERSION.to_le_bytes());
        put(&mut bytes, 8, &self.flags.to_le_bytes());
        put(&mut bytes, 12, &self.modules.to_le_bytes());
        put(&mut bytes, 16, &self.module_list.0.to_le_bytes());
        put(&mut bytes, 24, &self.command_line.0.to_le_bytes());
        put(&mut bytes, 32, &self.rsdp.0.to_le_bytes());
        put(&mut bytes, 40, &self.memory_map.0.to_le_bytes());
        put(&mut bytes, 48, &self.memory_entries.to_le_bytes());
        bytes
    }
}

/// One entry of the module list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Where it lies.
    pub address: HostPhysical,
    /// How long it is.
    pub size: Bytes,
    /// Where its own command line lies, zero-terminated; 0 for none.
    pub command_line: HostPhysical,
}

impl Module {
    /// Bytes of one entry.
    pub const SIZE: usize = 32;

    /// The entry as it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.address.0.to_le_bytes());
        put(&mut bytes, 8, &self.size.0.to_le_bytes());
        put(&mut bytes, 16, &self.command_line.0.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            address: HostPhysical(u64_at(bytes, 0)?),
            size: Bytes(u64_at(bytes, 8)?),
            command_line: HostPhysical(u64_at(bytes, 16)?),
        })
    }
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    /// Where it begins.
    pub address: HostPhysical,
    /// How long it is.
    pub size: Bytes,
    /// What it is: the numbers are e820's (XEN_HVM_MEMMAP_TYPE_*).
    pub kind: Kind,
}

impl MemoryEntry {
    /// Bytes of one entry.
    pub const SIZE: usize = 24;

    /// The entry as it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.address.0.to_le_bytes());
        put(&mut bytes, 8, &self.size.0.to_le_bytes());
        put(&mut bytes, 16, &self.kind.to_e820().to_le_bytes());
        bytes
    }

    /// The addresses it covers; what lies past the address space is cut off.
    #[must_use]
    pub fn span(&self) -> Span {
        Span::of(self.address, self.size)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            address: HostPhysical(u64_at(bytes, 0)?),
            size: Bytes(u64_at(bytes, 8)?),
            kind: Kind::from_e820(u32_at(bytes, 16)?),
        })
    }
}

/// The whole entries of a module list.
pub fn modules(bytes: &[u8]) -> impl Iterator<Item = Module> + '_ {
    bytes.chunks_exact(Module::SIZE).filter_map(Module::parse)
}

/// The whole entries of a memory map.
pub fn memory_map(bytes: &[u8]) -> impl Iterator<Item = MemoryEntry> + '_ {
    bytes.chunks_exact(MemoryEntry::SIZE).filter_map(MemoryEntry::parse)
}

/// The command line in `bytes`; `None` without an end or when it is no UTF-8.
#[must_use]
pub fn command_line(bytes: &[u8]) -> Option<&str> {
    text(bytes)
}

/// What to tell a program that is started by PVH.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Its command line, without zero bytes.
    pub command_line: &'a str,
    /// Its modules.
    pub modules: &'a [Module],
    /// Its ACPI root pointer, 0 for none.
    pub rsdp: HostPhysical,
}

/// Lays start information, module list, memory map and command line into `buffer`, which lies at `at`
/// in the started program's memory; the start information comes first, so EBX is `at`. Returns the
/// bytes used.
///
/// # Errors
/// The buffer is too small.
pub fn write(
    buffer: &mut [u8],
    at: HostPhysical,
    contents: &Contents<'_>,
    memory: impl Iterator<Item = MemoryEntry> + Clone,
) -> Result<usize, Error> {
    let found = buffer.len();
    let entries = memory.clone().count();
    let module_list = StartInfo::SIZE.next_multiple_of(8);
    let memory_map = module_list.saturating_add(contents.modules.len() * Module::SIZE);
    let command_line = memory_map.saturating_add(entries.saturating_mul(MemoryEntry::SIZE));
    let needed = command_line.saturating_add(contents.command_line.len() + 1);
    let space = Error::Space { needed, found };
    let place = |offset: usize| HostPhysical(at.0.wrapping_add(offset as u64));
    let info = StartInfo {
        flags: 0,
        modules: u32::try_from(contents.modules.len()).map_err(|_| space)?,
        module_list: place(module_list),
        command_line: place(command_line),
        rsdp: contents.rsdp,
        memory_map: place(memory_map),
        memory_entries: u32::try_from(entries).map_err(|_| space)?,
    };
    let used = buffer.get_mut(..needed).ok_or(space)?;
    used.fill(0);
    let mut put = |offset: usize, bytes: &[u8]| -> Result<(), Error> {
        used.get_mut(offset..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
            .ok_or(space)?
            .copy_from_slice(bytes);
        Ok(())
    };
    put(0, &info.to_bytes())?;
    for (index, module) in contents.modules.iter().enumerate() {
        put(module_list + index * Module::SIZE, &module.to_bytes())?;
    }
    for (index, entry) in memory.enumerate() {
        put(memory_map + index * MemoryEntry::SIZE, &entry.to_bytes())?;
    }
    put(command_line, contents.command_line.as_bytes())?;
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const AT: u64 = 0x9000;

    #[test]
    fn what_is_written_is_read_back() {
        let module = Module {
            address: HostPhysical(0x1000_0000),
            size: Bytes(12345),
            command_line: HostPhysical(0),
        };
        let memory = [
            (0, 0x9_fc00, Kind::Usable),
            (0x10_0000, 0x700_0000, Kind::Usable),
            (0x1_0000_0000, 0x4000_0000, Kind::SoftReserved),
        ]
        .map(|(address, size, kind)| MemoryEntry {
            address: HostPhysical(address),
            size: Bytes(size),
            kind,
        });
        let contents = Contents {
            command_line: "console=ttyS0 x=y",
            modules: &[module],
            rsdp: HostPhysical(0xe0000),
        };
        let mut buffer = [0xff; 512];
        let used = write(&mut buffer, HostPhysical(AT), &contents, memory.iter().copied())
            .expect("it fits");
        let part = |at: HostPhysical, size: usize| {
            let from = usize::try_from(at.0 - AT).expect("small");
            &buffer[from..from + size]
        };
        let info = StartInfo::parse(&buffer).expect("well formed");
        assert_eq!(info.rsdp, HostPhysical(0xe0000));
        let list = part(info.module_list, Module::SIZE * info.modules as usize);
        assert_eq!(modules(list).collect::<Vec<_>>(), [module]);
        let map = part(info.memory_map, MemoryEntry::SIZE * info.memory_entries as usize);
        assert_eq!(memory_map(map).collect::<Vec<_>>(), memory);
        let from = usize::try_from(info.command_line.0 - AT).expect("small");
        assert_eq!(command_line(&buffer[from..]), Some("console=ttyS0 x=y"));
        assert_eq!(from + "console=ttyS0 x=y".len() + 1, used);
        let mut small = [0; 177];
        assert_eq!(
            write(&mut small, HostPhysical(AT), &contents, memory.iter().copied()),
            Err(Error::Space { needed: used, found: 177 })
        );
    }

    #[test]
    fn other_structures_are_refused_by_name() {
        assert_eq!(StartInfo::parse(&[0; 56]), Err(Error::Magic { found: 0 }));
        let mut bytes = StartInfo::default().to_bytes();
        assert_eq!(StartInfo::parse(&bytes[..55 - 4]), Err(Error::Short { found: 51 }));
        bytes[4] = 0;
        assert_eq!(StartInfo::parse(&bytes), Err(Error::Version { found: 0 }));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = StartInfo::parse(&bytes);
            let _ = modules(&bytes).count();
            for entry in memory_map(&bytes) {
                let span = entry.span();
                prop_assert!(span.start <= span.end);
            }
            let _ = command_line(&bytes);
        }
    }
}

//! The application manifest: which devices a unikernel was built for (`mft_abi.h`).

use crate::bytes::{array, put, word};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// The only manifest version there is (`mft_abi.h`, `MFT_VERSION`).
const VERSION: u32 = 1;
/// Handles are bits of a 64-bit set (`mft_abi.h`, `MFT_MAX_ENTRIES`).
pub(crate) const MOST_ENTRIES: u32 = 64;
/// `struct mft` without its entries: version, number of entries.
const HEADER: usize = 8;
/// `struct mft_entry`: name, type, properties, a field of the tender's own, attached, padding.
const ENTRY: usize = 104;
const NAME: usize = 68;
const KIND_AT: usize = 68;
const PROPERTIES_AT: usize = 72;
const ATTACHED_AT: usize = 96;
const KIND_BLOCK: u32 = 1;
const KIND_NET: u32 = 2;
const KIND_RESERVED_FIRST: u32 = 1 << 30;
/// The largest description of a manifest's note, its padding not counted.
pub(crate) const MOST_BYTES: usize = HEADER + MOST_ENTRIES as usize * ENTRY;
const _: () = assert!(MOST_BYTES == 6664);

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Entry 0, which is no device.
    ReservedFirst,
    /// A disk.
    Block,
    /// A network card.
    Net,
}

/// One entry. Its place in the manifest is the device's handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name: at most 67 bytes.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A version nobody has defined.
    #[error("manifest version {0}; known is {VERSION}")]
    Version(u32),
    /// Too few or too many entries.
    #[error("{0} manifest entries; allowed are 1 to {MOST_ENTRIES}")]
    Count(u32),
    /// Its size contradicts the number of its entries.
    #[error("a manifest of {size} bytes with {entries} entries; they need {needed}")]
    Size {
        /// Bytes there are.
        size: usize,
        /// Entries it says it has.
        entries: u32,
        /// Bytes these take.
        needed: usize,
    },
    /// The first entry is not the reserved one.
    #[error("manifest entry 0 is not the reserved one without a name")]
    First,
    /// An entry of a type this tender does not know.
    #[error("manifest entry {index} has type {kind}; known are 1 (block) and 2 (net)")]
    Kind {
        /// Which.
        index: usize,
        /// Its type.
        kind: u32,
    },
    /// A name without its end, not text, or of no letters.
    #[error("the name of manifest entry {index} is not text of 1 to 67 bytes with a final zero")]
    Name {
        /// Which.
        index: usize,
    },
    /// Two entries of one name.
    #[error("manifest entries {first} and {second} have the same name")]
    SameName {
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A field that only a tender sets.
    #[error("manifest entry {index} says its device is there already")]
    Attached {
        /// Which.
        index: usize,
    },
}

/// What a device tells the guest, in its manifest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Properties {
    /// Bytes of the disk and of one block.
    Block { capacity: u64, block_size: u16 },
    /// Hardware address and largest packet.
    Net { mac: [u8; 6], mtu: u16 },
}

/// A manifest that keeps the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

impl Manifest {
    /// Reads the description of a manifest's note, its padding not included.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (version, count) = (word(bytes, 0), word(bytes, 4));
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        if !(1..=MOST_ENTRIES).contains(&count) {
            return Err(ManifestError::Count(count));
        }
        let needed = HEADER + count as usize * ENTRY;
        if bytes.len() != needed {
            return Err(ManifestError::Size { size: bytes.len(), entries: count, needed });
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count as usize);
        for (index, bytes) in bytes[HEADER..].chunks_exact(ENTRY).enumerate() {
            let entry = entry(index, bytes)?;
            let same = |other: &Entry| index > 0 && other.name == entry.name;
            if let Some(first) = entries.iter().position(same) {
                let second = index;
                return Err(ManifestError::SameName { first, second });
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// All entries by handle, the reserved one first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The manifest as the guest finds it: every device there, with its properties.
    pub(crate) fn attached(&self, properties: &[Option<Properties>]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + self.entries.len() * ENTRY];
        put(&mut bytes, 0, &VERSION.to_le_bytes());
        put(&mut bytes, 4, &(self.entries.len() as u32).to_le_bytes());
        let rooms = bytes[HEADER..].chunks_exact_mut(ENTRY);
        for (index, (room, entry)) in rooms.zip(&self.entries).enumerate() {
            put(room, 0, entry.name.as_bytes());
            let kind = match entry.kind {
                EntryKind::ReservedFirst => KIND_RESERVED_FIRST,
                EntryKind::Block => KIND_BLOCK,
                EntryKind::Net => KIND_NET,
            };
            put(room, KIND_AT, &kind.to_le_bytes());
            match properties.get(index) {
                Some(Some(Properties::Block { capacity, block_size })) => {
                    put(room, PROPERTIES_AT, &capacity.to_le_bytes());
                    put(room, PROPERTIES_AT + 8, &block_size.to_le_bytes());
                    put(room, ATTACHED_AT, &[1]);
                }
                Some(Some(Properties::Net { mac, mtu })) => {
                    put(room, PROPERTIES_AT, mac);
                    put(room, PROPERTIES_AT + 6, &mtu.to_le_bytes());
                    put(room, ATTACHED_AT, &[1]);
                }
                _ => {}
            }
        }
        bytes
    }

    /// A manifest with these devices, as a file has it.
    #[cfg(feature = "test-support")]
    pub(crate) fn unattached(devices: &[(&str, EntryKind)]) -> Vec<u8> {
        let first = Entry { name: String::new(), kind: EntryKind::ReservedFirst };
        let devices =
            devices.iter().map(|(name, kind)| Entry { name: (*name).into(), kind: *kind });
        let entries = core::iter::once(first).chain(devices).collect();
        Self { entries }.attached(&[])
    }
}

fn entry(index: usize, bytes: &[u8]) -> Result<Entry, ManifestError> {
    let kind = match (index, word(bytes, KIND_AT)) {
        (0, KIND_RESERVED_FIRST) => EntryKind::ReservedFirst,
        (0, _) => return Err(ManifestError::First),
        (_, KIND_BLOCK) => EntryKind::Block,
        (_, KIND_NET) => EntryKind::Net,
        (_, kind) => return Err(ManifestError::Kind { index, kind }),
    };
    let name: [u8; NAME] = array(bytes, 0);
    let refused = || ManifestError::Name { index };
    let end = name.iter().position(|byte| *byte == 0);
    let name = core::str::from_utf8(&name[..end.ok_or_else(refused)?]).map_err(|_| refused())?;
    if index == 0 && !name.is_empty() {
        return Err(ManifestError::First);
    }
    if index > 0 && (name.is_empty() || name.contains(char::is_control)) {
        return Err(refused());
    }
    if bytes.get(ATTACHED_AT) != Some(&0) {
        return Err(ManifestError::Attached { index });
    }
    Ok(Entry { name: name.into(), kind })
}

//! The qcow2 header, read for what `imago` does not tell or does not check: marks of damage,
//! encryption, snapshots, and tables that lie outside the file. Layout: QEMU docs/interop/qcow2.

use crate::DiskError;
use crate::layer::Layer;
use std::path::Path;

const MAGIC: u32 = 0x5146_49fb;
/// Length of the version 3 header up to its length field; version 2 ends at 72.
const LENGTH: usize = 104;
/// Incompatible feature bits.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// The largest first-level table QEMU accepts (block/qcow2.h), enough for 2 EiB.
const MOST_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table QEMU accepts (block/qcow2.h).
const MOST_REFCOUNT_BYTES: u64 = 8 << 20;
/// Bits 9 to 55 of a table entry are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) cluster_size: u64,
    pub(crate) size: u64,
    pub(crate) snapshots: u32,
    l1_entries: u64,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_bytes: u64,
}

impl Header {
    /// Reads and checks the header and the first-level tables. With `write`, also refuses what
    /// can only be read.
    pub(crate) fn read(layer: &Layer, path: &Path, write: bool) -> Result<Self, DiskError> {
        let corrupt = |fact: String| DiskError::Corrupt { path: path.to_owned(), fact };
        let unsupported = |feature: &str| DiskError::Unsupported {
            path: path.to_owned(),
            feature: feature.to_owned(),
        };
        let mut bytes = [0; LENGTH];
        layer
            .read(&mut &mut bytes[..], 0, LENGTH, false)
            .map_err(DiskError::io(path, "read the header of"))?;
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));

        if word(0) != MAGIC {
            return Err(corrupt(format!("it starts with {:#010x}, not {MAGIC:#010x}", word(0))));
        }
        let version = word(4);
        if !(2..=3).contains(&version) {
            return Err(corrupt(format!("version {version}; 2 and 3 are known")));
        }
        let features = if version == 3 { long(72) } else { 0 };
        if features & CORRUPT != 0 {
            return Err(corrupt(
                "it is marked corrupt; `qemu-img check -r all` may repair it".into(),
            ));
        }
        if features & DIRTY != 0 {
            return Err(corrupt(
                "it was not closed properly (dirty mark); `qemu-img check -r all` repairs it"
                    .into(),
            ));
        }
        if word(32) != 0 {
            return Err(unsupported("encryption"));
        }
        for (bit, feature) in [
            (EXTERNAL_DATA, "an external data file"),
            (COMPRESSION, "compression other than zlib"),
            (EXTENDED_L2, "extended L2 entries (subclusters)"),
        ] {
            if features & bit != 0 {
                return Err(unsupported(feature));
            }
        }
        let unknown = features & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2);
        if unknown != 0 {
            return Err(unsupported(&format!("incompatible feature set {unknown:#x}")));
        }
        let snapshots = word(60);
        if write && snapshots != 0 {
            return Err(unsupported(&format!(
                "writing to an image with {snapshots} internal snapshots"
            )));
        }
        let cluster_bits = word(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt(format!(
                "clusters of 2^{cluster_bits} bytes; 2^9 to 2^21 are allowed"
            )));
        }
        let cluster_size = 1 << cluster_bits;
        let header = Self {
            cluster_size,
            size: long(24),
            snapshots,
            l1_entries: word(36).into(),
            l1_offset: long(40),
            refcount_offset: long(48),
            // At most 2^32 clusters of 2^21 bytes.
            refcount_bytes: u64::from(word(56)) * cluster_size,
        };
        let length = layer.length().map_err(DiskError::io(path, "find the length of"))?;
        header.check_tables(layer, length).map_err(|trouble| match trouble {
            Trouble::Fact(fact) => corrupt(fact),
            Trouble::Io(error) => DiskError::io(path, "read the tables of")(error),
        })?;
        Ok(header)
    }

    fn check_tables(&self, layer: &Layer, length: u64) -> Result<(), Trouble> {
        // One L2 table of a cluster has entries of 8 bytes, one per cluster.
        let covered = self.cluster_size * (self.cluster_size / 8);
        let needed = self.size.div_ceil(covered);
        let l1_bytes = self.l1_entries * 8;
        if self.l1_entries < needed {
            return Err(Trouble::Fact(format!(
                "its L1 table has {} entries, a disk of {} bytes needs {needed}",
                self.l1_entries, self.size
            )));
        }
        if l1_bytes > MOST_L1_BYTES {
            return Err(Trouble::Fact(format!(
                "its L1 table has {l1_bytes} bytes, at most {MOST_L1_BYTES} are allowed"
            )));
        }
        if self.refcount_bytes > MOST_REFCOUNT_BYTES {
            return Err(Trouble::Fact(format!(
                "its refcount table has {} bytes, at most {MOST_REFCOUNT_BYTES} are allowed",
                self.refcount_bytes
            )));
        }
        self.check_table(layer, length, "L1", self.l1_offset, l1_bytes)?;
        self.check_table(layer, length, "refcount", self.refcount_offset, self.refcount_bytes)
    }

    /// The table and everything its entries point to begin on a cluster and lie in the file.
    fn check_table(
        &self,
        layer: &Layer,
        length: u64,
        name: &str,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Trouble> {
        if !offset.is_multiple_of(self.cluster_size) {
            return Err(Trouble::Fact(format!(
                "its {name} table at {offset:#x} does not begin on a cluster of {:#x}",
                self.cluster_size
            )));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(Trouble::Fact(format!(
                "its {name} table of {bytes} bytes at {offset:#x} ends behind the file's end at {length:#x}"
            )));
        }
        let mut chunk = [0; 4096];
        let mut done = 0;
        while done < bytes {
            let count = (bytes - done).min(4096) as usize;
            layer
                .read(&mut &mut chunk[..count], offset + done, count, false)
                .map_err(Trouble::Io)?;
            for (index, entry) in chunk[..count].chunks_exact(8).enumerate() {
                let mut value = [0; 8];
                value.copy_from_slice(entry);
                let target = u64::from_be_bytes(value) & OFFSET;
                if !target.is_multiple_of(self.cluster_size) || target >= length && target != 0 {
                    return Err(Trouble::Fact(format!(
                        "entry {} of its {name} table points to {target:#x}; allowed are multiples of {:#x} below the file's end at {length:#x}",
                        done / 8 + index as u64,
                        self.cluster_size
                    )));
                }
            }
            done += count as u64;
        }
        Ok(())
    }
}

enum Trouble {
    Fact(String),
    Io(std::io::Error),
}

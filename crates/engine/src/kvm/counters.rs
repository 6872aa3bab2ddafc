//! Figures KVM keeps about a processor or a partition: binary statistics, where the kernel offers them
//! (Linux 5.14 or later; KVM API 4.133).

use crate::EngineError;
use crate::counters::More;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use vmm_sys_util::{ioctl::ioctl, ioctl_io_nr};

// Not in `kvm-ioctls`.
ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// KVM's own counters, read from a descriptor that KVM_GET_STATS_FD gave.
pub(super) struct BinaryStats {
    file: File,
    counters: Vec<Counter>,
}

/// Where one counter stands in the file.
#[derive(Debug, PartialEq, Eq)]
struct Counter {
    name: String,
    offset: u64,
}

impl BinaryStats {
    /// `object` is a KVM VM or vCPU descriptor.
    pub(super) fn open(object: &impl AsRawFd) -> Result<Self, EngineError> {
        let operation = "KVM_GET_STATS_FD";
        // SAFETY: an ioctl without argument on a descriptor that is open.
        let descriptor = unsafe { ioctl(object, KVM_GET_STATS_FD()) };
        if descriptor < 0 {
            return Err(EngineError::call(operation, io::Error::last_os_error()));
        }
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let counters =
            layout(&file).map_err(|source| EngineError::call("read of KVM statistics", source))?;
        Ok(Self { file, counters })
    }

    pub(super) fn read(&self) -> Vec<(String, u64)> {
        let mut value = [0; 8];
        self.counters
            .iter()
            .filter_map(|counter| {
                self.file.read_exact_at(&mut value, counter.offset).ok()?;
                Some((format!("kvm.{}", counter.name), u64::from_le_bytes(value)))
            })
            .collect()
    }
}

impl More for BinaryStats {
    fn read(&self) -> Vec<(String, u64)> {
        Self::read(self)
    }
}

/// Reads header and descriptors (linux/kvm.h: `kvm_stats_header`, `kvm_stats_desc`).
fn layout(file: &impl FileExt) -> io::Result<Vec<Counter>> {
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    let (name_size, count) = (word(4) as usize, word(8) as usize);
    let (descriptors, data) = (u64::from(word(16)), u64::from(word(20)));
    let entry = DESCRIPTOR_SIZE + name_size;
    // The kernel has about 60 counters with names below 48 bytes.
    let Some(length) = entry.checked_mul(count).filter(|bytes| *bytes <= 1 << 20) else {
        return Err(io::Error::other("the table of counters is larger than 1 MiB"));
    };
    let mut table = vec![0; length];
    file.read_exact_at(&mut table, descriptors)?;
    Ok(table.chunks_exact(entry).filter_map(|bytes| counter(bytes, data)).collect())
}

/// flags u32, exponent i16, size u16, offset u32, bucket size u32, then the name.
const DESCRIPTOR_SIZE: usize = 16;

/// `None` for histograms, which are not one figure.
fn counter(descriptor: &[u8], data: u64) -> Option<Counter> {
    let half = |at: usize| u16::from_le_bytes([descriptor[at], descriptor[at + 1]]);
    let values = half(6);
    let offset = u32::from(half(8)) | u32::from(half(10)) << 16;
    if values != 1 {
        return None;
    }
    let name = &descriptor[DESCRIPTOR_SIZE..];
    let name = name.split(|byte| *byte == 0).next()?;
    Some(Counter {
        name: String::from_utf8_lossy(name).into_owned(),
        offset: data + u64::from(offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_left_out_and_names_end_at_the_zero() {
        let mut descriptor = vec![0; DESCRIPTOR_SIZE];
        descriptor[6] = 1;
        descriptor[8] = 0x10;
        descriptor.extend(b"halt_exits\0\0\0");
        assert_eq!(
            counter(&descriptor, 0x100),
            Some(Counter { name: "halt_exits".to_owned(), offset: 0x110 })
        );
        descriptor[6] = 32;
        assert_eq!(counter(&descriptor, 0), None);
    }
}

//! Anonymous memory that other processes map too: guest RAM and window memory.

use crate::MachineError;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::fs::File;

/// An anonymous file of `size` zero bytes that can neither shrink nor grow: a process it is shared
/// with cannot make our accesses fault. Takes pages only where it is written; with `huge`, huge ones.
///
/// # Errors
/// The kernel refused.
pub(crate) fn sealed_file(name: &str, size: u64, huge: bool) -> Result<File, MachineError> {
    let failed = |what| move |e: rustix::io::Errno| MachineError::system(what, e.into());
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let file = memfd_create(name, flags).map_err(failed("cannot make a memory file"))?;
    ftruncate(&file, size).map_err(failed("cannot size a memory file"))?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
        .map_err(failed("cannot seal a memory file"))?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_can_neither_shrink_nor_grow() {
        let file = super::sealed_file("test", 1 << 20, false).unwrap();
        assert!(file.set_len(4096).is_err());
        assert!(file.set_len(2 << 20).is_err());
    }
}

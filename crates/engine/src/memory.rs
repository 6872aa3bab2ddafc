//! Host memory that may become guest memory.

use crate::EngineError;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use units::Bytes;

/// What the guest may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, write, execute.
    ReadWrite,
    /// Read and execute; a write exits with [`crate::Exit::MemoryWrite`] (flash in read mode).
    ReadOnly,
}

/// A stretch of this process's memory that stays where it is.
///
/// # Safety
/// `address` is page-aligned, the `size` bytes from it are mapped readable and writable (or at
/// least readable for [`Access::ReadOnly`]) and stay so, at the same place, until the value is
/// dropped. The guest may change them at any time: nobody holds a Rust reference into them.
/// What [`Self::backing`] says is true.
#[allow(unsafe_code)]
pub unsafe trait HostMapping: Send + Sync {
    /// Where the mapping starts in this process.
    fn address(&self) -> usize;
    /// Its length, a multiple of the page size.
    fn size(&self) -> Bytes;
    /// The file that is mapped there, and from which byte on; an engine that gives memory itself
    /// ([`crate::Partition::allocate`]) knows it by that.
    fn backing(&self) -> Option<(&Arc<File>, u64)> {
        None
    }
}

/// Memory that an engine gave for a guest ([`crate::Partition::allocate`]): a part of a file, all zero,
/// which its user maps, and others can. It is to live as long as what is mapped of it.
pub struct Allocation {
    file: Arc<File>,
    offset: u64,
    size: Bytes,
    huge: bool,
    /// Gives the memory back.
    _pages: Option<Box<dyn Any + Send + Sync>>,
}

impl Allocation {
    /// `size` bytes of `file` from `offset` on; `pages` lives as long as they are used.
    pub(crate) fn new(
        file: Arc<File>,
        offset: u64,
        size: Bytes,
        pages: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self { file, offset, size, huge: true, _pages: Some(pages) }
    }

    /// Anonymous memory in a file of its own, which can neither shrink nor grow; with `huge_pages` of
    /// hugetlb pages where enough are free. Pages cost nothing until they are used.
    ///
    /// # Errors
    /// More than the host has, or the kernel refused.
    pub fn anonymous(
        name: &'static str,
        size: Bytes,
        huge_pages: bool,
    ) -> Result<Self, EngineError> {
        let host = host_ram();
        if size > host {
            return Err(EngineError::TooMuchMemory {
                asked: size,
                there: host,
                whose: "this host",
            });
        }
        let whole = size.0.is_multiple_of(HUGE_PAGE);
        let huge = huge_pages && whole && free_huge_pages() >= size.0 / HUGE_PAGE;
        let file = Arc::new(sealed_file(name, size, huge)?);
        Ok(Self { file, offset: 0, size, huge, _pages: None })
    }

    /// The file that holds it.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where it starts in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How long it is.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Whether large pages are sure to back it.
    #[must_use]
    pub fn huge(&self) -> bool {
        self.huge
    }
}

/// Pages of hugetlb memory (SDM 3A 4.5: page-directory entries with PS set).
const HUGE_PAGE: u64 = 2 << 20;

/// An anonymous file of `size` zero bytes that can neither shrink nor grow: a process it is shared
/// with cannot make our accesses fault. Takes pages only where it is written; with `huge`, huge ones.
///
/// # Errors
/// The kernel refused.
pub fn sealed_file(name: &str, size: Bytes, huge: bool) -> Result<File, EngineError> {
    let failed = |what| move |e: rustix::io::Errno| EngineError::call(what, e.into());
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let file = memfd_create(name, flags).map_err(failed("memfd_create"))?;
    ftruncate(&file, size.0).map_err(failed("ftruncate of a memory file"))?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
        .map_err(failed("sealing of a memory file"))?;
    Ok(File::from(file))
}

/// RAM of the host.
fn host_ram() -> Bytes {
    let info = rustix::system::sysinfo();
    Bytes((info.totalram as u64).saturating_mul(u64::from(info.mem_unit)))
}

/// Free hugetlb pages of 2 MiB; 0 where the kernel has none.
fn free_huge_pages() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_can_neither_shrink_nor_grow() {
        let memory = Allocation::anonymous("test", Bytes(1 << 20), false).unwrap();
        assert!(memory.file().set_len(4096).is_err());
        assert!(memory.file().set_len(2 << 20).is_err());
        assert_eq!((memory.offset(), memory.size()), (0, Bytes(1 << 20)));
    }

    #[test]
    fn more_than_the_host_has_is_refused_with_the_figures() {
        let Err(error) = Allocation::anonymous("test", Bytes(1 << 50), false) else {
            panic!("a host with a pebibyte of RAM");
        };
        assert!(
            matches!(error, EngineError::TooMuchMemory { asked: Bytes(a), .. } if a == 1 << 50)
        );
    }
}

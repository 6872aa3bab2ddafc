//! Where flash content is kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The content of a flash chip. Accesses lie inside [`Self::size`], which is a multiple of 4096
/// and never changes.
pub trait FlashStore: Send {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Reads.
    ///
    /// # Errors
    /// The medium failed.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes; seen at once by whoever has the store mapped.
    ///
    /// # Errors
    /// The medium failed, is full, or is read-only.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes writes survive the host's power failure.
    ///
    /// # Errors
    /// The medium failed.
    fn sync(&mut self) -> io::Result<()>;
}

/// Content in a file. The machine may map the same file (`MAP_SHARED`) into the guest: writes here
/// show there, because both go through the page cache.
#[derive(Debug)]
pub struct FileStore {
    file: File,
    size: u64,
}

impl FileStore {
    /// Takes `file`, opened for reading and, unless it is never to change, writing.
    ///
    /// # Errors
    /// Its size cannot be read, or is 0 or no multiple of 4096.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if size == 0 || !size.is_multiple_of(super::BLOCK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("flash image of {size} bytes: must be a multiple of 4096 and not empty"),
            ));
        }
        Ok(Self { file, size })
    }
}

impl FlashStore for FileStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

//! The machine's flash: UEFI code that ends at 4 GiB, and right below it the VM's own variables.
//!
//! The code is mapped read-only and no device: writes to it go nowhere. The variables are a chip
//! ([`firmware::Flash`]): mapped read-only too while it shows its content, taken away while it
//! answers commands, so that reads come to it then. Where the engine maps only memory of its own, the guest
//! sees a copy, made anew each time the chip shows its content again.
#![allow(unsafe_code)]

use super::bus::{Bus, Handler};
use super::memory::map_part;
use super::timers::SharedDevice;
use crate::MachineError;
use crate::flash::FlashFiles;
use chipset::{Device, MemoryDevice};
use engine::{Access, Allocation, HostMapping, Partition};
use firmware::{FileStore, Flash};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use units::{Bytes, GuestPhysical};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{Bytes as _, FileOffset, VolatileMemory};

/// A file's content as the guest sees it.
trait Content: HostMapping {
    /// Brings it in step with what was written to the file since.
    fn renew(&self) -> io::Result<()>;
}

/// A file mapped for reading: what is written to it shows at once.
struct FileMapping(MmapRegion);

// SAFETY: the mapping is page-aligned (made by mmap), readable, and lives as long as the value. It
// is only ever given out with `Access::ReadOnly`. Nobody in this process reads through it.
unsafe impl HostMapping for FileMapping {
    fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        Bytes(self.0.len() as u64)
    }
}

impl Content for FileMapping {
    fn renew(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A copy of a file in memory of the engine's.
struct Copy {
    file: File,
    size: Bytes,
    region: MmapRegion,
    memory: Arc<Allocation>,
}

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, at least as long as `size`,
// and lives as long as the value. It is written through vm-memory only, and no Rust reference is made.
unsafe impl HostMapping for Copy {
    fn address(&self) -> usize {
        self.region.as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn backing(&self) -> Option<(&Arc<File>, u64)> {
        Some((self.memory.file(), self.memory.offset()))
    }
}

impl Content for Copy {
    fn renew(&self) -> io::Result<()> {
        let mut bytes = vec![0; self.size.0 as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        self.region.as_volatile_slice().write_slice(&bytes, 0).map_err(io::Error::other)
    }
}

/// All of `file` for the guest of `partition`.
fn content(
    file: File,
    path: &Path,
    partition: &dyn Partition,
) -> Result<Arc<dyn Content>, MachineError> {
    let failed = |e| MachineError::file("cannot map firmware", path, e);
    let size = file.metadata().map_err(failed)?.len();
    let room = layout::FOUR_GIB.0 - layout::FLASH_FIRST.0;
    if size == 0 || size % units::PAGE_SIZE != 0 || size > room {
        return Err(MachineError::Definition {
            field: "boot.firmware".into(),
            value: path.display().to_string(),
            reason: format!("{size} bytes: must be a multiple of 4096, at most {room}"),
        });
    }
    if partition.maps_any_memory() {
        return Ok(FileMapping::new(file, size, path)?);
    }
    let whole = Bytes(size.next_multiple_of(partition.memory_granule().0));
    let memory = partition.allocate("firmware", whole, false)?;
    let region = map_part(&memory, 0, whole)?;
    let copy = Copy { file, size: Bytes(size), region, memory };
    copy.renew().map_err(failed)?;
    Ok(Arc::new(copy))
}

impl FileMapping {
    /// Maps the `size` bytes of `file`.
    fn new(file: File, size: u64, path: &Path) -> Result<Arc<Self>, MachineError> {
        let failed = |e| MachineError::file("cannot map firmware", path, e);
        // At most 16 MiB: fits any usize.
        let region = MmapRegionBuilder::new(size as usize)
            .with_mmap_prot(libc::PROT_READ)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .map_err(|e| failed(std::io::Error::other(e)))?;
        Ok(Arc::new(Self(region)))
    }
}

/// The chip with the variables, and whether the guest sees its content as memory now.
struct Variables {
    chip: Flash<FileStore>,
    content: Arc<dyn Content>,
    base: GuestPhysical,
    partition: Arc<dyn Partition>,
    mapped: bool,
}

impl Variables {
    /// Brings the mapping in step with the chip's mode, and the log with its failures.
    fn follow(&mut self) {
        if let Some(error) = self.chip.take_failure() {
            tracing::error!(%error, "firmware variables are not saved");
        }
        let wanted = self.chip.is_read_array();
        if wanted == self.mapped {
            return;
        }
        if wanted && let Err(error) = self.content.renew() {
            // Then every read comes here.
            tracing::error!(%error, "firmware variables cannot be shown as memory");
            return;
        }
        let result = if wanted {
            self.partition.map(self.base, Arc::clone(&self.content) as _, Access::ReadOnly)
        } else {
            self.partition.unmap(self.base)
        };
        match result {
            Ok(()) => self.mapped = wanted,
            // Without a mapping every read comes here: slow, and right.
            Err(error) => tracing::error!(%error, wanted, "flash mapping"),
        }
    }
}

impl Device for Variables {
    fn name(&self) -> &'static str {
        self.chip.name()
    }

    fn reset(&mut self) {
        self.chip.reset();
        self.follow();
    }
}

/// The chip on the memory bus.
struct Window(Arc<Mutex<Variables>>);

impl Window {
    fn lock(&self) -> MutexGuard<'_, Variables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().chip.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut variables = self.lock();
        variables.chip.write(offset, data);
        variables.follow();
    }
}

/// Puts `files` into the machine, variables kept at `nvram`. Gives the chip, if there is one, to be
/// reset with the other devices.
///
/// # Errors
/// A file is missing, of an impossible size, or the engine cannot map it.
pub(super) fn install(
    files: &FlashFiles,
    nvram: &Path,
    partition: &Arc<dyn Partition>,
    memory: &Bus,
) -> Result<Option<SharedDevice>, MachineError> {
    let open = |options: &mut OpenOptions, path: &Path| {
        options.open(path).map_err(|e| MachineError::file("cannot open firmware", path, e))
    };
    let code = open(OpenOptions::new().read(true), &files.code)?;
    let code = content(code, &files.code, &**partition)?;
    let base = GuestPhysical(layout::FOUR_GIB.0 - code.size().0);
    partition.map(base, code, Access::ReadOnly)?;
    let Some(nvram) = files.variables(nvram)? else {
        tracing::warn!(code = %files.code.display(), "firmware without a store for variables");
        return Ok(None);
    };
    let file = open(OpenOptions::new().read(true).write(true), &nvram)?;
    let failed = |e| MachineError::file("cannot use NVRAM", &nvram, e);
    let content = content(file.try_clone().map_err(failed)?, &nvram, &**partition)?;
    let size = content.size();
    let base = match base.0.checked_sub(size.0) {
        Some(base) if base >= layout::FLASH_FIRST.0 => GuestPhysical(base),
        _ => return Err(failed(std::io::ErrorKind::FileTooLarge.into())),
    };
    let chip = Flash::new("nvram", FileStore::new(file).map_err(failed)?);
    let partition = Arc::clone(partition);
    let mut variables = Variables { chip, content, base, partition, mapped: false };
    variables.follow();
    let variables = Arc::new(Mutex::new(variables));
    memory
        .claim(base.0, size.0, Arc::new(Window(Arc::clone(&variables))))
        .map_err(|e| super::motherboard::part("flash")(&e))?;
    tracing::info!(code = %files.code.display(), nvram = %nvram.display(), "firmware");
    Ok(Some(variables))
}

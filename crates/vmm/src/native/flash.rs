//! The machine's flash: UEFI code that ends at 4 GiB, and right below it the VM's own variables.
//!
//! The code is mapped read-only and no device: writes to it go nowhere. The variables are a chip
//! ([`firmware::Flash`]): mapped read-only too while it shows its content, taken away while it
//! answers commands, so that reads come to it then.
#![allow(unsafe_code)]

use super::bus::{Bus, Handler};
use super::timers::SharedDevice;
use crate::MachineError;
use crate::flash::FlashFiles;
use chipset::{Device, MemoryDevice};
use engine::{Access, HostMapping, Partition};
use firmware::{FileStore, Flash};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use units::{Bytes, GuestPhysical};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, VolatileMemory};

/// A file mapped for reading.
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

impl FileMapping {
    /// Maps all of `file`; what is written to the file shows in the mapping.
    fn new(file: File, path: &Path) -> Result<Arc<Self>, MachineError> {
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
    mapping: Arc<FileMapping>,
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
        let result = if wanted {
            self.partition.map(self.base, Arc::clone(&self.mapping) as _, Access::ReadOnly)
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
    let code = FileMapping::new(open(OpenOptions::new().read(true), &files.code)?, &files.code)?;
    let base = GuestPhysical(layout::FOUR_GIB.0 - code.size().0);
    partition.map(base, code, Access::ReadOnly)?;
    let Some(nvram) = files.variables(nvram)? else {
        tracing::warn!(code = %files.code.display(), "firmware without a store for variables");
        return Ok(None);
    };
    let file = open(OpenOptions::new().read(true).write(true), &nvram)?;
    let failed = |e| MachineError::file("cannot use NVRAM", &nvram, e);
    let mapping = FileMapping::new(file.try_clone().map_err(failed)?, &nvram)?;
    let size = mapping.size();
    let base = match base.0.checked_sub(size.0) {
        Some(base) if base >= layout::FLASH_FIRST.0 => GuestPhysical(base),
        _ => return Err(failed(std::io::ErrorKind::FileTooLarge.into())),
    };
    let chip = Flash::new("nvram", FileStore::new(file).map_err(failed)?);
    let partition = Arc::clone(partition);
    let mut variables = Variables { chip, mapping, base, partition, mapped: false };
    variables.follow();
    let variables = Arc::new(Mutex::new(variables));
    memory
        .claim(base.0, size.0, Arc::new(Window(Arc::clone(&variables))))
        .map_err(|e| super::motherboard::part("flash")(&e))?;
    tracing::info!(code = %files.code.display(), nvram = %nvram.display(), "firmware");
    Ok(Some(variables))
}

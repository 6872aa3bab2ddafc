//! Looks into the files a definition names, so that a kernel that is none or a corrupt image is
//! refused when the VM is made and not first when it starts.

use crate::problem::Problem;
use definition::{DiskFormat, VmDefinition};
use disk::{BackingPolicy, DiskError, Format, OpenOptions};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The format as the disk crate calls it.
#[must_use]
pub fn format(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
    }
}

/// Checks kernel and disk images. Waits for the disk: not for a runtime's worker.
///
/// # Errors
/// The first file that is not what its field says.
pub fn check(definition: &VmDefinition) -> Result<(), Problem> {
    if let Some(kernel) = &definition.boot.kernel {
        check_kernel(kernel)?;
    }
    if let Some(unikernel) = &definition.boot.hvt {
        check_unikernel(unikernel, definition.memory)?;
    }
    if let Some(firmware) = &definition.boot.firmware {
        check_firmware(firmware)?;
    }
    for (index, disk) in definition.disks.iter().enumerate() {
        let options = OpenOptions {
            format: format(disk.format),
            // Nothing is written here, whatever the VM may do.
            read_only: true,
            backing: BackingPolicy::default(),
        };
        match options.open(&disk.path) {
            // In use by a running VM, which has checked it; that matters at the start.
            Ok(_) | Err(DiskError::Locked { .. }) => {}
            Err(error) => {
                let said = error.to_string();
                // Not once more what the value says.
                let prefix = format!("{}: ", disk.path.display());
                let why = said.strip_prefix(&prefix).unwrap_or(&said);
                return Err(Problem::failed(format!(
                    "disk[{index}].path is {:?} ({why}); allowed: a sound {} image",
                    disk.path, options.format
                )));
            }
        }
    }
    Ok(())
}

fn check_firmware(path: &Path) -> Result<(), Problem> {
    let most = layout::FOUR_GIB.0 - layout::FLASH_FIRST.0;
    let found = match path.metadata() {
        Ok(it) if (1..=most).contains(&it.len()) && it.len() % units::PAGE_SIZE == 0 => {
            return Ok(());
        }
        Ok(it) => format!("{} bytes", it.len()),
        Err(error) => error.to_string(),
    };
    Err(Problem::failed(format!(
        "boot.firmware is {path:?} ({found}); allowed: a firmware image of a multiple of 4096 \
         bytes, at most {most}"
    )))
}

fn check_kernel(path: &Path) -> Result<(), Problem> {
    let found = match File::open(path) {
        Ok(mut file) => match loader::detect(&mut file) {
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Err(Problem::failed(format!(
        "boot.kernel is {path:?} ({found}); allowed: a Linux bzImage, an ELF kernel with a PVH \
         note, a Multiboot 1 kernel, or a tiny guest"
    )))
}

fn check_unikernel(path: &Path, memory: u64) -> Result<(), Problem> {
    // More than that would not fit the machine.
    let most = memory << 20;
    let mut bytes = Vec::new();
    let found = match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => match solo5::Unikernel::read(&bytes) {
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Err(Problem::failed(format!(
        "boot.hvt is {path:?} ({found}); allowed: a Solo5 unikernel for hvt"
    )))
}

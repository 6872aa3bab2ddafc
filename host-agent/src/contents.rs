//! Looks into the files a definition names, so that a kernel that is none or a corrupt image is
//! refused when the VM is made and not first when it starts.

use crate::problem::Problem;
use definition::{DiskFormat, VmDefinition};
use disk::{BackingPolicy, DiskError, Format, OpenOptions};
use std::fs::File;
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
                return Err(Problem::failed(format!(
                    "disk[{index}].path is {:?} ({error}); allowed: a sound {} image",
                    disk.path, options.format
                )));
            }
        }
    }
    Ok(())
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

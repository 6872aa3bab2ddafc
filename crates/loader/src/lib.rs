//! Puts what a machine starts into guest memory and says how its first processor begins. Told
//! apart by content: Linux bzImage, PVH ELF, Multiboot 1, tiny guest; or nothing at all, when
//! firmware in flash starts at the reset vector.
//!
//! Called by `vmm` and the monitor before the first run and after each reset. The kernel file is untrusted: every
//! field is checked against the file and the memory map before it is used, and a file that lies
//! is answered with the field, its value and what is allowed.
//!
//! `no_std` with `alloc`, because the bare-metal monitor starts the same kernels: files are an
//! [`Image`], guest memory is a [`Ram`]. Feature `std` (on by default) makes files and `vm-memory`
//! the two.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod elf;
mod entry;
mod error;
mod image;
mod linux;
mod multiboot;
mod place;
mod pvh;
mod ram;
pub mod tiny;

pub use entry::EntryPoint;
pub use error::LoadError;
pub use image::{Bytes, Image, ImageError};
pub use ram::{NoRam, Ram};

use image::Source;
use layout::MemoryMap;
use units::GuestPhysical;

/// What a kernel file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// Linux bzImage (Linux Documentation/arch/x86/boot.rst).
    Linux,
    /// ELF with a Xen PVH entry note (Xen docs/misc/pvh.pandoc).
    Pvh,
    /// Multiboot Specification version 0.6.96.
    Multiboot,
    /// One of our tiny test programs.
    Tiny,
}

/// What to start.
pub struct Request<'a, I> {
    /// The kernel.
    pub kernel: &'a mut I,
    /// Its file name: first word of a Multiboot command line.
    pub kernel_name: &'a str,
    /// Initial RAM disk; module 0 of a Multiboot kernel.
    pub initrd: Option<&'a mut I>,
    /// Its file name: the command string of a Multiboot module.
    pub initrd_name: &'a str,
    /// Kernel command line.
    pub command_line: &'a str,
    /// Where the ACPI root pointer is.
    pub rsdp: Option<GuestPhysical>,
}

/// A kernel in guest memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it was.
    pub kind: ImageKind,
    /// How the first processor starts. The others wait for SIPI.
    pub entry: EntryPoint,
}

/// Says what `kernel` is, by its content.
///
/// # Errors
/// It cannot be read, or it is none of the known kinds.
pub fn detect<I: Image>(kernel: &mut I) -> Result<ImageKind, LoadError> {
    let mut source = Source::new("kernel", kernel)?;
    detect_in(&mut source)
}

fn detect_in<I: Image>(source: &mut Source<'_, I>) -> Result<ImageKind, LoadError> {
    let head = source.head(multiboot::SEARCHED)?;
    if linux::is_linux(&head) {
        Ok(ImageKind::Linux)
    } else if tiny::is_tiny(&head) {
        // Before Multiboot: a tiny guest may have that header too, for machines that know no tiny guests.
        Ok(ImageKind::Tiny)
    } else if multiboot::find_header(&head).is_some() {
        Ok(ImageKind::Multiboot)
    } else if elf::is_elf(&head) {
        Ok(ImageKind::Pvh)
    } else {
        Err(LoadError::NotAKernel { first: head.iter().take(8).copied().collect() })
    }
}

/// Loads the kernel with everything it is to be told.
///
/// # Errors
/// A file cannot be read, is no kernel, contradicts itself, or does not fit the machine. Guest
/// memory may then hold parts of it.
pub fn load<I: Image, R: Ram>(
    memory: &R,
    map: &MemoryMap,
    request: Request<'_, I>,
) -> Result<Loaded, LoadError> {
    let mut kernel = Source::new("kernel", request.kernel)?;
    let mut initrd = match request.initrd {
        Some(file) => Some(Source::new("initrd", file)?),
        None => None,
    };
    let kind = detect_in(&mut kernel)?;
    place::conventional_memory(memory)?;
    let (line, rsdp) = (request.command_line, request.rsdp);
    let entry = match kind {
        ImageKind::Linux => linux::load(memory, map, &mut kernel, initrd.as_mut(), line, rsdp)?,
        ImageKind::Pvh => pvh::load(memory, map, &mut kernel, initrd.as_mut(), line, rsdp)?,
        ImageKind::Multiboot => {
            let names = multiboot::Names {
                kernel: request.kernel_name,
                module: request.initrd_name,
                command_line: line,
            };
            multiboot::load(memory, map, &mut kernel, initrd.as_mut(), &names)?
        }
        ImageKind::Tiny => tiny::load(memory, &kernel.all(tiny::MOST_BYTES)?)?,
    };
    Ok(Loaded { kind, entry })
}

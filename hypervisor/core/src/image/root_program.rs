//! Root's program: taken from the boot archive, put where it is linked, told about the machine.

use super::machine::{MAPPED, Machine, RANGES, bytes, bytes_mut};
use super::refuse;
use hypervisor_boot::archive::Archive;
use hypervisor_boot::elf::Image;
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use hypervisor_boot::pvh;
use hypervisor_core::root::Start;
use units::{Bytes, HostPhysical};

/// The name of root's program in the archive.
const NAME: &str = "root";
/// Room for what root is told.
const INFORMATION: u64 = 64 << 10;

/// Root's program, checked.
pub(super) struct Program {
    pub(super) image: Image<'static>,
    entry: HostPhysical,
}

impl Program {
    /// Finds it.
    pub(super) fn find(machine: &Machine) -> Self {
        if machine.archive.is_empty() {
            refuse!(
                "no boot archive: give one to QEMU by -initrd, to GRUB by module2; it is a cpio archive whose file `{NAME}` is root's program"
            );
        }
        let file = match Archive::new(bytes(machine.archive)).find(NAME) {
            Ok(Some(file)) => file,
            Ok(None) => refuse!("the boot archive has no file `{NAME}`"),
            Err(error) => refuse!("the boot archive at {} is damaged: {error}", machine.archive),
        };
        let image = Image::parse(file.contents).unwrap_or_else(|error| {
            refuse!("`{NAME}` in the boot archive is no ELF image the core can start: {error}")
        });
        let entry = image.pvh_entry().unwrap_or_else(|| {
            refuse!("`{NAME}` in the boot archive has no PVH entry (note XEN_ELFNOTE_PHYS32_ENTRY)")
        });
        Self { image, entry }
    }

    /// Puts it into memory, which `map` says is root's, and says how to start it.
    pub(super) fn load(&self, machine: &Machine, map: &MemoryMap<RANGES>) -> Start {
        for segment in self.image.segments() {
            if !map.is_all(segment.memory, Kind::Usable) {
                refuse!(
                    "`{NAME}` wants to lie at {}, which is not free memory; the machine has {} MiB",
                    segment.memory,
                    machine.map.total(Kind::Usable).0 >> 20
                );
            }
            if segment.memory.overlaps(&machine.archive) {
                refuse!(
                    "`{NAME}` wants to lie at {}, where the loader put the boot archive ({}); give the machine more memory",
                    segment.memory,
                    machine.archive
                );
            }
            // SAFETY: usable memory that is neither the core's nor the archive's.
            let (start, rest) =
                unsafe { bytes_mut(segment.memory) }.split_at_mut(segment.contents.len());
            start.copy_from_slice(segment.contents);
            rest.fill(0);
        }
        let mut free = *map;
        let _ = free.subtract(self.image.memory());
        let _ = free.subtract(machine.archive);
        let low = Span { start: HostPhysical(1 << 20), end: HostPhysical(MAPPED) };
        let place = free
            .lowest_usable(Bytes(INFORMATION), 4096, low)
            .expect("no 64 KiB of memory for root's start information");
        // SAFETY: usable, not the core's, used by nobody else.
        let buffer = unsafe { bytes_mut(place) };
        let module = pvh::Module {
            address: machine.archive.start,
            size: machine.archive.size(),
            command_line: HostPhysical(0),
        };
        let contents = pvh::Contents {
            command_line: machine.command_line(),
            modules: &[module],
            rsdp: machine.root_pointer,
        };
        // The range itself is taken out of what root may use.
        let mut told = *map;
        let _ = told.carve(place, Kind::Reserved);
        let _ = told.carve(machine.archive, Kind::Reserved);
        let entries = told.ranges().iter().map(|range| pvh::MemoryEntry {
            address: range.span.start,
            size: range.span.size(),
            kind: range.kind,
        });
        if let Err(error) = pvh::write(buffer, place.start, &contents, entries) {
            refuse!("root's start information does not fit: {error:?}");
        }
        Start::Boot { entry: self.entry, information: place.start }
    }
}

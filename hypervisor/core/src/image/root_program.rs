//! Root's program: the boot archive's or the boot loader's, put into memory and told about the machine.
//! It is a Linux kernel (bzImage), or an ELF image with a PVH entry such as the monitor.

use super::machine::{MAPPED, Machine, RANGES, bytes, bytes_mut};
use super::refuse;
use hypervisor_boot::archive::Archive;
use hypervisor_boot::elf::Image;
use hypervisor_boot::linux::{self, Kernel};
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use hypervisor_boot::pvh;
use hypervisor_core::root::Start;
use units::{Bytes, HostPhysical, PAGE_SIZE};

/// Words before those of root's kernel (Linux Documentation/admin-guide/kernel-parameters): what would take the
/// processors away from the core is refused by the kernel itself, or done another way. A kernel that starts
/// another one (kexec, kdump) stops the processors where they are, and the new one's INIT reaches them behind
/// the core's back; suspend to disk loses the core's memory.
const WORDS: &str = "sysctl.kernel.kexec_load_disabled=1 nohibernate ";
/// Where the core does not learn of suspend to RAM.
const IDLE_ONLY: &str = "mem_sleep_default=s2idle ";

/// The name of root's program in the archive, and of a Linux kernel's initial RAM disk and command line.
const NAME: &str = "root";
const RAMDISK: &str = "initrd";
const COMMAND_LINE: &str = "command-line";
/// Room for what root is told.
const INFORMATION: u64 = 64 << 10;
/// A kernel is put at or above this address: below lies what the firmware and old kernels use.
const KERNELS: u64 = 16 << 20;

/// Root's program, checked.
pub(super) enum Program {
    /// An ELF image with a PVH entry, started with the whole archive as its module.
    Pvh { image: Image<'static>, entry: HostPhysical, archive: Span },
    /// A Linux kernel.
    Linux { kernel: Kernel<'static>, ramdisk: Option<Span>, command_line: &'static str },
}

/// Where bytes lie that are mapped one to one.
fn span_of(contents: &'static [u8]) -> Span {
    Span::of(HostPhysical(contents.as_ptr() as u64), Bytes(contents.len() as u64))
}

impl Program {
    /// Finds it: the first module is a kernel (the second its RAM disk, its words the command line), or
    /// the boot archive.
    pub(super) fn find(machine: &Machine) -> Self {
        let mut modules = machine.modules();
        let Some(first) = modules.next() else {
            refuse!(
                "no boot archive: give one to QEMU by -initrd, to GRUB by module2; it is a cpio archive whose file `{NAME}` is root's program. GRUB may give a Linux kernel and its initrd instead"
            );
        };
        if linux::is_kernel(bytes(first.span)) {
            let ramdisk = modules.next().map(|module| module.span);
            return Self::linux(bytes(first.span), ramdisk, first.command_line);
        }
        let archive = Archive::new(bytes(first.span));
        let find = |name: &str| {
            archive.find(name).unwrap_or_else(|error| {
                refuse!("the boot archive at {} is damaged: {error}", first.span)
            })
        };
        let Some(file) = find(NAME) else { refuse!("the boot archive has no file `{NAME}`") };
        if linux::is_kernel(file.contents) {
            let words = find(COMMAND_LINE).map_or(&[][..], |file| file.contents);
            let Ok(words) = core::str::from_utf8(words) else {
                refuse!("`{COMMAND_LINE}` in the boot archive is no UTF-8")
            };
            let ramdisk = find(RAMDISK).map(|file| span_of(file.contents));
            return Self::linux(file.contents, ramdisk, words.trim());
        }
        let image = Image::parse(file.contents).unwrap_or_else(|error| {
            refuse!(
                "`{NAME}` in the boot archive is neither a Linux kernel nor an ELF image the core can start: {error}"
            )
        });
        let entry = image.pvh_entry().unwrap_or_else(|| {
            refuse!("`{NAME}` in the boot archive has no PVH entry (note XEN_ELFNOTE_PHYS32_ENTRY)")
        });
        Self::Pvh { image, entry, archive: first.span }
    }

    fn linux(file: &'static [u8], ramdisk: Option<Span>, command_line: &'static str) -> Self {
        let kernel = Kernel::parse(file)
            .unwrap_or_else(|error| refuse!("root's kernel cannot be started: {error}"));
        let length = WORDS.len() + IDLE_ONLY.len() + command_line.len();
        if length > kernel.command_line {
            refuse!(
                "the command line of root's kernel has {length} bytes, it takes {}",
                kernel.command_line
            );
        }
        Self::Linux { kernel, ramdisk, command_line }
    }

    /// Where it must lie, empty when it may lie anywhere.
    pub(super) fn memory(&self) -> Span {
        match self {
            Self::Pvh { image, .. } => image.memory(),
            Self::Linux { .. } => Span::of(HostPhysical(0), Bytes(0)),
        }
    }

    /// Whether the core finds the local APICs in the mode the program wants: a kernel decides itself.
    pub(super) const fn sets_apic_mode(&self) -> bool {
        matches!(self, Self::Linux { .. })
    }

    /// Puts it into memory, which `map` says is root's, and says how to start it. The core learns when root `sleeps`, or
    /// root had better not.
    pub(super) fn load(&self, machine: &Machine, map: &MemoryMap<RANGES>, sleeps: bool) -> Start {
        match self {
            Self::Pvh { image, entry, archive } => {
                let information = load_pvh(image, *archive, machine, map);
                Start::Boot { entry: *entry, information }
            }
            Self::Linux { kernel, ramdisk, command_line } => {
                let words = [WORDS, if sleeps { "" } else { IDLE_ONLY }, command_line];
                load_linux(kernel, *ramdisk, words, machine, map)
            }
        }
    }
}

/// Memory for what root is told, of `free`.
fn information<const N: usize>(free: &MemoryMap<N>) -> Span {
    let low = Span { start: HostPhysical(1 << 20), end: HostPhysical(MAPPED) };
    free.lowest_usable(Bytes(INFORMATION), PAGE_SIZE, low)
        .unwrap_or_else(|| refuse!("no 64 KiB of memory for root's start information"))
}

fn load_pvh(
    image: &Image<'_>,
    archive: Span,
    machine: &Machine,
    map: &MemoryMap<RANGES>,
) -> HostPhysical {
    for segment in image.segments() {
        if !map.is_all(segment.memory, Kind::Usable) {
            refuse!(
                "`{NAME}` wants to lie at {}, which is not free memory; the machine has {} MiB",
                segment.memory,
                machine.map.total(Kind::Usable).0 >> 20
            );
        }
        if segment.memory.overlaps(&archive) {
            refuse!(
                "`{NAME}` wants to lie at {}, where the loader put the boot archive ({archive}); give the machine more memory",
                segment.memory,
            );
        }
        // SAFETY: usable memory that is neither the core's nor the archive's.
        let (start, rest) =
            unsafe { bytes_mut(segment.memory) }.split_at_mut(segment.contents.len());
        start.copy_from_slice(segment.contents);
        rest.fill(0);
    }
    let mut free = *map;
    let _ = free.subtract(image.memory());
    let _ = free.subtract(archive);
    let place = information(&free);
    // SAFETY: usable, not the core's, used by nobody else.
    let buffer = unsafe { bytes_mut(place) };
    let module =
        pvh::Module { address: archive.start, size: archive.size(), command_line: HostPhysical(0) };
    let contents = pvh::Contents {
        command_line: machine.command_line(),
        modules: &[module],
        rsdp: machine.root_pointer,
    };
    // The range itself is taken out of what root may use.
    let mut told = *map;
    let _ = told.carve(place, Kind::Reserved);
    let _ = told.carve(archive, Kind::Reserved);
    let entries = told.ranges().iter().map(|range| pvh::MemoryEntry {
        address: range.span.start,
        size: range.span.size(),
        kind: range.kind,
    });
    if let Err(error) = pvh::write(buffer, place.start, &contents, entries) {
        refuse!("root's start information does not fit: {error:?}");
    }
    place.start
}

fn load_linux(
    kernel: &Kernel<'_>,
    ramdisk: Option<Span>,
    words: [&str; 3],
    machine: &Machine,
    map: &MemoryMap<RANGES>,
) -> Start {
    let mut free = *map;
    for span in machine.in_use() {
        let _ = free.subtract(span);
    }
    let high = Span { start: HostPhysical(KERNELS), end: HostPhysical(MAPPED) };
    let Some(place) = free.lowest_usable(kernel.size, kernel.alignment, high) else {
        refuse!(
            "no {} MiB of memory in one piece for root's kernel: give the core a smaller pool (pool=MIB)",
            kernel.size.0.div_ceil(1 << 20)
        )
    };
    let _ = free.subtract(place);
    // SAFETY: usable, not the core's, and nothing of the loader's lies there.
    let memory = unsafe { bytes_mut(place) };
    memory[..kernel.code.len()].copy_from_slice(kernel.code);
    let told = information(&free);
    // SAFETY: as above.
    let (page, text) = unsafe { bytes_mut(told) }.split_at_mut(PAGE_SIZE as usize);
    let bytes = words.into_iter().flat_map(str::bytes);
    for (place, byte) in text.iter_mut().zip(bytes.chain([0])) {
        *place = byte;
    }
    let contents = linux::Contents {
        ramdisk: ramdisk.map_or((HostPhysical(0), Bytes(0)), |span| {
            let span = align(span);
            (span.start, span.size())
        }),
        command_line: HostPhysical(text.as_ptr() as u64),
        root_pointer: machine.root_pointer,
    };
    let page: &mut [u8; PAGE_SIZE as usize] = page.try_into().expect("split at a page's size");
    // The kernel copies both before it gives memory away, so that they may lie in memory it may use.
    kernel.write_zero_page(page, &contents, map.e820());
    Start::Linux { entry: place.start, zero_page: told.start }
}

/// Moves a RAM disk down to where its page begins: Linux gives back whole pages of it.
fn align(span: Span) -> Span {
    let start = span.start.0 & !(PAGE_SIZE - 1);
    let by = (span.start.0 - start) as usize;
    if by == 0 {
        return span;
    }
    // SAFETY: before it in its page lies the rest of the module it came in, which nobody reads again.
    let bytes = unsafe { bytes_mut(Span { start: HostPhysical(start), end: span.end }) };
    bytes.copy_within(by.., 0);
    Span::of(HostPhysical(start), span.size())
}

//! What the boot loader said, copied out of its memory.

use super::refuse;
use hypervisor_boot::acpi::SleepControl;
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use hypervisor_boot::{acpi, multiboot2, pvh};
use hypervisor_core::processor::MAX_CPUS;
use units::{Bytes, HostPhysical};

/// Ranges a machine's memory map may have.
pub(super) const RANGES: usize = 128;
/// The first page tables map this much, one to one.
pub(super) const MAPPED: u64 = 1 << 32;

/// The most modules a loader may bring: more are left alone.
const MODULES: usize = 4;

/// A file the boot loader brought.
#[derive(Clone, Copy)]
pub(super) struct Module {
    /// Where it lies.
    pub(super) span: Span,
    /// The words after its name.
    pub(super) command_line: &'static str,
}

/// The machine before the core.
pub(super) struct Machine {
    /// Its memory.
    pub(super) map: MemoryMap<RANGES>,
    modules: [Option<Module>; MODULES],
    /// The loader's words, the modules' command lines among them.
    information: Span,
    /// Where the ACPI root pointer lies, 0 for nowhere.
    pub(super) root_pointer: HostPhysical,
    /// The core's command line.
    command_line: [u8; 512],
    command_length: usize,
}

/// The firmware's tables, as far as they lie below [`MAPPED`].
struct Low;

impl Low {
    fn span(address: HostPhysical, length: usize) -> Option<Span> {
        let span = Span::of(address, Bytes(length as u64));
        (address.0 != 0 && !span.is_empty() && span.end.0 <= MAPPED).then_some(span)
    }
}

impl acpi::Memory for Low {
    fn read(&self, address: HostPhysical, into: &mut [u8]) -> bool {
        let Some(span) = Self::span(address, into.len()) else { return false };
        into.copy_from_slice(bytes(span));
        true
    }
}

impl acpi::Tables for Low {
    fn table(&mut self, address: HostPhysical, length: usize) -> Option<&mut [u8]> {
        // SAFETY: the firmware's, which nobody reads while the core starts; one table is borrowed at a time.
        Self::span(address, length).map(|span| unsafe { bytes_mut(span) })
    }
}

/// Bytes at a physical address below [`MAPPED`].
pub(super) fn bytes(span: Span) -> &'static [u8] {
    // SAFETY: nobody writes there while the core starts.
    unsafe { bytes_mut(span) }
}

/// The same, to be written.
///
/// # Safety
/// Nobody else uses them.
pub(super) unsafe fn bytes_mut(span: Span) -> &'static mut [u8] {
    assert!(
        !span.is_empty() && span.start.0 != 0 && span.end.0 <= MAPPED,
        "the boot loader names memory out of reach: {span}"
    );
    // SAFETY: the first page tables map it; the rest is the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(span.start.0 as *mut u8, span.size().0 as usize) }
}

fn text(address: HostPhysical) -> &'static str {
    if address.0 == 0 {
        return "";
    }
    pvh::command_line(bytes(Span::of(address, Bytes(4096)))).unwrap_or("")
}

impl Machine {
    /// Reads what a loader of this kind (see `entry.s`) left at `information`.
    pub(super) fn read(kind: u64, information: u64) -> Self {
        let mut machine = Self {
            map: MemoryMap::new(),
            modules: [None; MODULES],
            information: Span::of(HostPhysical(0), Bytes(0)),
            root_pointer: HostPhysical(0),
            command_line: [0; 512],
            command_length: 0,
        };
        if information == 0 {
            refuse!(
                "this image is started by PVH (QEMU -kernel) or Multiboot2 (GRUB multiboot2), and this loader is neither"
            );
        }
        let information = HostPhysical(information);
        if kind == 1 {
            machine.read_pvh(information);
        } else {
            machine.read_multiboot2(information);
        }
        if machine.root_pointer.0 == 0 {
            machine.search_root_pointer();
        }
        machine
    }

    /// What the loader brought, in its order.
    pub(super) fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        self.modules.iter().flatten().copied()
    }

    /// What must not be written over before root's program and its command line are copied.
    pub(super) fn in_use(&self) -> impl Iterator<Item = Span> + '_ {
        self.modules().map(|module| module.span).chain([self.information])
    }

    fn add_module(&mut self, span: Span, command_line: &'static str) {
        if let Some(place) = self.modules.iter_mut().find(|place| place.is_none())
            && !span.is_empty()
        {
            *place = Some(Module { span, command_line });
        }
    }

    fn add(&mut self, span: Span, kind: Kind) {
        self.map.insert(span, kind).expect("the machine's memory map has more than 128 ranges");
    }

    fn set_command_line(&mut self, line: &str) {
        if line.len() > self.command_line.len() {
            refuse!("the core's command line has {} bytes, at most 512 are allowed", line.len());
        }
        self.command_line[..line.len()].copy_from_slice(line.as_bytes());
        self.command_length = line.len();
    }

    /// The core's command line.
    pub(super) fn command_line(&self) -> &str {
        core::str::from_utf8(&self.command_line[..self.command_length]).unwrap_or("")
    }

    /// Its words.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.command_line().split_ascii_whitespace()
    }

    fn read_pvh(&mut self, at: HostPhysical) {
        let head = bytes(Span::of(at, Bytes(pvh::StartInfo::SIZE as u64)));
        let info = pvh::StartInfo::parse(head)
            .unwrap_or_else(|error| refuse!("the PVH start information cannot be used: {error:?}"));
        let list = |start: HostPhysical, count: u32, size: usize| {
            let span = Span::of(start, Bytes(u64::from(count) * size as u64));
            if count == 0 { &[][..] } else { bytes(span) }
        };
        let map = list(info.memory_map, info.memory_entries, pvh::MemoryEntry::SIZE);
        for entry in pvh::memory_map(map) {
            self.add(entry.span(), entry.kind);
        }
        let modules = list(info.module_list, info.modules, pvh::Module::SIZE);
        for module in pvh::modules(modules) {
            self.add_module(Span::of(module.address, module.size), text(module.command_line));
        }
        self.root_pointer = info.rsdp;
        self.set_command_line(text(info.command_line));
    }

    fn read_multiboot2(&mut self, at: HostPhysical) {
        let mut first = [0; 4];
        first.copy_from_slice(bytes(Span::of(at, Bytes(4))));
        self.information = Span::of(at, multiboot2::total_size(first));
        let all = bytes(self.information);
        let info = multiboot2::Information::parse(all).unwrap_or_else(|error| {
            refuse!("the Multiboot2 information cannot be used: {error:?}")
        });
        for (span, kind) in info.memory_map() {
            self.add(span, kind);
        }
        for module in info.modules() {
            self.add_module(Span::of(module.start, module.size()), module.command_line);
        }
        // The loader's copy lies in memory that is used again: the firmware's own first.
        self.search_root_pointer();
        if let Some(copy) = info.rsdp()
            && self.root_pointer.0 == 0
        {
            self.root_pointer = HostPhysical(copy.as_ptr() as u64);
        }
        self.set_command_line(info.command_line());
    }

    /// The firmware's area below 1 MiB (ACPI 6.5 5.2.5.1).
    fn search_root_pointer(&mut self) {
        let is_there = |address: &HostPhysical| {
            bytes(Span::of(*address, Bytes(20))).first_chunk().is_some_and(acpi::is_root_pointer)
        };
        let mut places = (0xe_0000..0x10_0000).step_by(16).map(HostPhysical);
        self.root_pointer = places.find(is_there).unwrap_or(HostPhysical(0));
    }

    /// APIC ids of the machine's processors, this one's first, at most as many as the core can run.
    /// Only this one's when it is not in the table of them.
    pub(super) fn processors(&self, own: u32) -> ([u32; MAX_CPUS], usize) {
        let mut ids = [own; MAX_CPUS];
        let mut count = 1;
        let mut listed = false;
        let result = acpi::processors(&Low, self.root_pointer, |id| match ids.get_mut(count) {
            _ if id == own => listed = true,
            Some(place) => {
                *place = id;
                count += 1;
            }
            None => {}
        });
        if let Err(error) = result {
            hypervisor_core::log!("no table of processors ({error:?}): only this one is used");
            listed = false;
        }
        (ids, if listed { count } else { 1 })
    }

    /// How the machine is put to sleep. Where the core would not learn of it suspend to RAM is taken away from root: the
    /// firmware would wake it without the core.
    pub(super) fn sleep_control(&self) -> Option<SleepControl> {
        let control = acpi::sleep_control(&Low, self.root_pointer).ok().flatten();
        if control.is_none() {
            self.hide_suspend_to_ram();
        }
        control
    }

    fn hide_suspend_to_ram(&self) {
        match acpi::hide_suspend_to_ram(&mut Low, self.root_pointer) {
            Ok(hidden) => hypervisor_core::log!("suspend to RAM: {hidden} definitions taken away"),
            Err(error) => hypervisor_core::log!("suspend to RAM is not taken away ({error:?})"),
        }
    }
}

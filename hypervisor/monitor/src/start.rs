//! From the boot archive to guests that are ready to run: manifest, memory, kernels, tables, vCPUs.

mod disk;
mod state;
mod unikernel;

use crate::GuestRam;
use crate::Machine;
use crate::board::{Board, External, Happenings, Messages, Parts};
use crate::calls::{CallError, Core, PartitionId, RunPageAccess, Transfer};
use crate::clock::Clock;
use crate::guest::{Guest, Made, Screen, SharedConsole};
use crate::hvt::HvtError;
use crate::manifest::{self, GuestDefinition, ManifestError};
use crate::memory::{PoolError, PoolMemory};
use crate::vcpu::Vcpu;
use crate::virtio::{
    Block, Device as VirtioDevice, MMIO_BASE, MMIO_SIZE, Net, Storage, Switch, VirtioConsole,
};
use crate::wake::Wakes;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use chipset::FIRST_PCI_PIN;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_boot::archive::{self, Archive};
use layout::{LayoutError, MemoryMap, Range};
use loader::{ImageKind, LoadError, Request};
use processor::CpuidEntry;
use units::{Bytes, GuestPhysical, HostPhysical};

/// The file of the boot archive that says which guests there are.
pub const MANIFEST: &str = "manifest";

/// Why a guest, or all of them, cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The boot archive is damaged.
    #[error("the boot archive is damaged: {0}")]
    Archive(archive::Error),
    /// It has no manifest.
    #[error("the boot archive has no file {MANIFEST:?}; its files are {files}")]
    NoManifest {
        /// Names of its files.
        files: String,
    },
    /// The manifest has a mistake.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that the manifest names is not there.
    #[error(
        "guest {guest}: the boot archive has no file {file:?}, which the manifest gives as {word}; \
         its files are {files}"
    )]
    NoFile {
        /// The guest.
        guest: String,
        /// The manifest's word.
        word: &'static str,
        /// The file.
        file: String,
        /// Names of the files there are.
        files: String,
    },
    /// A guest asks for memory there is not.
    #[error("guest {guest}: {error}")]
    Memory {
        /// The guest.
        guest: String,
        /// Why.
        error: PoolError,
    },
    /// A guest asks for memory processors cannot address.
    #[error("guest {guest}: {error}")]
    Layout {
        /// The guest.
        guest: String,
        /// Why.
        error: LayoutError,
    },
    /// Its kernel cannot be loaded.
    #[error("guest {guest}: kernel {kernel:?}: {error}")]
    Load {
        /// The guest.
        guest: String,
        /// Its kernel.
        kernel: String,
        /// Why.
        error: LoadError,
    },
    /// It is a Solo5 unikernel, and cannot be started.
    #[error("guest {guest}: unikernel {kernel:?}: {error}")]
    Unikernel {
        /// The guest.
        guest: String,
        /// Its file.
        kernel: String,
        /// Why.
        error: HvtError,
    },
    /// Its ACPI tables cannot be placed.
    #[error("guest {guest}: {error}")]
    Acpi {
        /// The guest.
        guest: String,
        /// Why.
        error: firmware::AcpiError,
    },
    /// It is to have the machine's disk, and there is none for it.
    #[error("guest {guest}: the machine has no virtio disk, or another guest has it already")]
    NoDisk {
        /// The guest.
        guest: String,
    },
    /// Its disk is larger than the monitor can keep in memory.
    #[error(
        "guest {guest}: disk {file:?} of {size} MiB: what guests write to such disks is kept in \
         memory, of which the monitor has {left} MiB left for it"
    )]
    DiskMemory {
        /// The guest.
        guest: String,
        /// The file.
        file: String,
        /// MiB of the disk.
        size: u64,
        /// MiB that are left.
        left: u64,
    },
    /// The core refused something.
    #[error("guest {guest}: {error}")]
    Core {
        /// The guest.
        guest: String,
        /// What.
        error: CallError,
    },
}

/// What guests are made from.
pub struct Means<'a> {
    /// The core.
    pub core: Arc<Core>,
    /// The machine.
    pub machine: &'static dyn Machine,
    /// Processors that run vCPUs.
    pub processors: usize,
    /// The console.
    pub console: SharedConsole,
    /// The machine's time.
    pub clock: Clock,
    /// Gives the machine's time in nanoseconds.
    pub now: fn() -> u64,
    /// Nanoseconds since 1970 when the machine's time began.
    pub wall_clock: i128,
    /// The guests' part of the pool.
    pub pool: PoolMemory,
    /// Makes memory of ranges that lie in the pool one after the other.
    pub ram: &'a dyn Fn(HostPhysical, &[Range]) -> GuestRam,
    /// The run page at an offset of the pool.
    pub run_page: &'a dyn Fn(u64) -> Box<dyn RunPageAccess>,
    /// This processor's part of the transfer area.
    pub slot: Box<dyn Transfer>,
    /// Bytes of the monitor's memory for what guests write to disks that are files.
    pub disk_memory: u64,
    /// The machine's own disk.
    pub disk: Option<Box<dyn Storage>>,
    /// What joins the guests' network cards.
    pub switch: Arc<Switch>,
}

/// Guests that are ready, and which processor runs which vCPU.
pub struct Ready {
    /// All guests.
    pub guests: Vec<Arc<Guest>>,
    /// The vCPUs of each processor.
    pub vcpus: Vec<Vec<Vcpu>>,
}

/// How many virtio devices a guest has: its console always.
fn devices(definition: &GuestDefinition) -> usize {
    1 + usize::from(definition.disk.is_some()) + usize::from(definition.net)
}

/// Where the first `count` virtio devices are.
fn virtio_registers(count: usize) -> Vec<firmware::VirtioRegisters> {
    (0..count)
        .map(|index| firmware::VirtioRegisters {
            range: Range {
                base: GuestPhysical(MMIO_BASE + index as u64 * MMIO_SIZE),
                size: Bytes(MMIO_SIZE),
            },
            interrupt: u32::from(FIRST_PCI_PIN) + u32::try_from(index).unwrap_or(0),
        })
        .collect()
}

/// Names of an archive's files.
fn names(archive: &Archive<'_>) -> String {
    let mut all = String::new();
    for file in archive.files().flatten() {
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(file.name);
    }
    if all.is_empty() { "none".into() } else { all }
}

/// Makes every guest of the archive's manifest.
///
/// # Errors
/// The first thing that is wrong. Nothing runs then.
pub fn make(archive: &Archive<'static>, means: Means<'_>) -> Result<Ready, StartError> {
    archive.check().map_err(StartError::Archive)?;
    let file = archive.find(MANIFEST).map_err(StartError::Archive)?;
    let file = file.ok_or_else(|| StartError::NoManifest { files: names(archive) })?;
    let mut definitions = manifest::parse(file.contents)?;
    let mut maker = Maker {
        archive,
        supported: Vec::new(),
        next: 0,
        running: Arc::default(),
        ready: Ready {
            guests: Vec::new(),
            vcpus: (0..means.processors.max(1)).map(|_| Vec::new()).collect(),
        },
        means,
    };
    // Those that say where their memory is to be come first.
    definitions.sort_by_key(|guest| guest.place.is_none());
    for definition in &definitions {
        maker.guest(definition)?;
    }
    Ok(maker.ready)
}

struct Maker<'a> {
    archive: &'a Archive<'static>,
    means: Means<'a>,
    supported: Vec<CpuidEntry>,
    /// The processor the next vCPU goes to.
    next: usize,
    /// Guests that have not ended.
    running: Arc<AtomicU64>,
    ready: Ready,
}

impl Maker<'_> {
    fn guest(&mut self, definition: &GuestDefinition) -> Result<(), StartError> {
        let guest = || definition.name.clone();
        let refused = |error| StartError::Core { guest: guest(), error };
        let core = Arc::clone(&self.means.core);
        if self.supported.is_empty() {
            let rows = core.supported_cpuid(&mut *self.means.slot);
            let rows = rows.map_err(refused)?;
            self.supported = rows.iter().map(state::entry).collect();
        }
        let bits = u8::try_from(processor::physical_bits(&self.supported)).unwrap_or(36);
        let map = MemoryMap::new(Bytes::mib(definition.memory), bits)
            .map_err(|error| StartError::Layout { guest: guest(), error })?;
        let place = definition.place.map(Bytes::mib);
        let taken = self.means.pool.take(map.ram_size(), place);
        let from = taken.map_err(|error| StartError::Memory { guest: guest(), error })?;
        let ram = (self.means.ram)(from, &map.ram());
        let kernel = self.file(definition, "kernel", &definition.kernel)?;
        let loaded = if solo5::is_unikernel(kernel) {
            None
        } else {
            Some(self.load(definition, kernel, &ram, &map)?)
        };

        let partition = core.create_partition().map_err(refused)?;
        let mut at = from.0;
        for range in map.ram() {
            core.map(partition, range.base, HostPhysical(at), range.size).map_err(refused)?;
            at += range.size.0;
        }
        let processors =
            (0..definition.vcpus).map(|n| (self.next + n) % self.ready.vcpus.len()).collect();
        self.next = (self.next + definition.vcpus) % self.ready.vcpus.len();
        let virtio = loaded.is_some();
        let mut made = self.board(definition, ram.clone(), &map, partition, processors, virtio)?;
        let tiny = loaded.as_ref().is_some_and(|l| l.kind == ImageKind::Tiny);
        let entry = match loaded {
            Some(loaded) => loaded.entry,
            None => self.unikernel(definition, kernel, ram, &mut made)?,
        };
        let guest = Arc::new(Guest::new(made));
        if tiny {
            guest.board.lock().be_tiny();
        }
        for index in 0..definition.vcpus {
            let vcpu = self.vcpu(&guest, index, definition.vcpus);
            let vcpu = vcpu.map_err(refused)?;
            let processor = guest.wakes.processors()[index];
            self.ready.vcpus[processor].push(vcpu);
        }
        let slot = &mut *self.means.slot;
        let now = core.state(partition, 0, slot).map_err(refused)?;
        let start = state::start(&now, &entry);
        core.set_state(partition, 0, &start, slot).map_err(refused)?;
        self.ready.guests.push(guest);
        Ok(())
    }

    fn file(
        &self,
        definition: &GuestDefinition,
        word: &'static str,
        name: &str,
    ) -> Result<&'static [u8], StartError> {
        let found = self.archive.find(name).map_err(StartError::Archive)?;
        let file = found.ok_or_else(|| StartError::NoFile {
            guest: definition.name.clone(),
            word,
            file: name.into(),
            files: names(self.archive),
        })?;
        Ok(file.contents)
    }

    /// Puts kernel and tables into the guest's memory.
    fn load(
        &self,
        definition: &GuestDefinition,
        kernel: &[u8],
        ram: &GuestRam,
        map: &MemoryMap,
    ) -> Result<loader::Loaded, StartError> {
        let guest = || definition.name.clone();
        let initrd = match &definition.initrd {
            Some(name) => Some(self.file(definition, "initrd", name)?),
            None => None,
        };
        let config = firmware::AcpiConfig {
            processors: u32::try_from(definition.vcpus).unwrap_or(1),
            map: map.clone(),
            ecam: None,
            pm_base: layout::PM_BASE,
            virtio: virtio_registers(devices(definition)),
        };
        let acpi = firmware::place_acpi(&config)
            .map_err(|error| StartError::Acpi { guest: guest(), error })?;
        for (at, bytes) in [&acpi.rsdp, &acpi.tables] {
            ram.write(at.0, bytes);
        }
        let mut initrd = initrd.map(loader::Bytes);
        let request = Request {
            kernel: &mut loader::Bytes(kernel),
            kernel_name: &definition.kernel,
            initrd: initrd.as_mut(),
            initrd_name: definition.initrd.as_deref().unwrap_or_default(),
            command_line: &definition.append,
            rsdp: Some(acpi.rsdp.0),
        };
        loader::load(ram, map, request).map_err(|error| StartError::Load {
            guest: guest(),
            kernel: definition.kernel.clone(),
            error,
        })
    }

    fn board(
        &mut self,
        definition: &GuestDefinition,
        ram: GuestRam,
        map: &MemoryMap,
        partition: PartitionId,
        processors: Vec<usize>,
        virtio: bool,
    ) -> Result<Made, StartError> {
        let core = Arc::clone(&self.means.core);
        let wakes = Arc::new(Wakes::new(self.means.machine, processors));
        let external = Arc::new(External::new(Arc::clone(&wakes)));
        let happenings = Arc::new(Happenings::default());
        let source = self.means.console.lock().add(&definition.name);
        let screen = Screen::new(Arc::clone(&self.means.console), source, self.means.now);
        let messages = Messages::new(Arc::clone(&core), partition, Arc::clone(&wakes));
        let due = Arc::new(AtomicU64::new(0));
        let virtio =
            if virtio { self.virtio(definition, &screen, &wakes, &due)? } else { Vec::new() };
        let board = Board::new(Parts {
            ram,
            map,
            processors: u32::try_from(definition.vcpus).unwrap_or(1),
            messages: Arc::new(messages),
            external: Arc::clone(&external),
            happenings: Arc::clone(&happenings),
            screen,
            clock: self.means.clock,
            wall_clock: self.means.wall_clock,
            virtio,
        });
        Ok(Made {
            name: definition.name.clone(),
            core,
            partition,
            board,
            hvt: None,
            external,
            happenings,
            wakes,
            source,
            due,
            running: Arc::clone(&self.running),
        })
    }

    /// Its virtio devices, as many as [`devices`] says.
    fn virtio(
        &mut self,
        definition: &GuestDefinition,
        screen: &Screen,
        wakes: &Arc<Wakes>,
        due: &Arc<AtomicU64>,
    ) -> Result<Vec<Box<dyn VirtioDevice>>, StartError> {
        let mut all: Vec<Box<dyn VirtioDevice>> =
            [Box::new(VirtioConsole::new(Box::new(screen.clone()))) as _].into();
        let storage = self.storage(definition)?;
        if let Some(storage) = storage {
            all.push(Box::new(Block::new(storage, &definition.name)));
        }
        if definition.net {
            let (wakes, due) = (Arc::clone(wakes), Arc::clone(due));
            let port = self.means.switch.join(move || {
                due.store(0, Ordering::Release);
                wakes.interrupt(wakes.processors()[0]);
            });
            all.push(Box::new(Net::new(port)));
        }
        Ok(all)
    }

    fn vcpu(&mut self, guest: &Arc<Guest>, index: usize, count: usize) -> Result<Vcpu, CallError> {
        let core = &guest.core;
        let offset = core.create_vcpu(guest.partition, index)?;
        let number = |n: usize| u32::try_from(n).unwrap_or(0);
        let leaves = processor::guest_cpuid(&self.supported, number(count), number(index));
        let rows: Vec<_> = leaves.iter().map(state::row).collect();
        core.set_cpuid(guest.partition, index, &rows, &mut *self.means.slot)?;
        let page = (self.means.run_page)(offset);
        Ok(Vcpu::new(Arc::clone(guest), index, page))
    }
}

#[cfg(test)]
mod tests;

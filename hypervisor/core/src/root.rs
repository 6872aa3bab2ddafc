//! Root's virtual CPUs: one on each physical CPU, with the machine's own interrupts, ports and devices.
//! The loop here is what every physical CPU does for as long as it runs: root until it exits, the
//! exit's answer, root again. Running a guest is one of root's calls and happens inside the answer.

mod apic;
mod exits;
mod memory_types;
mod microcode;
pub mod sleep;

pub(crate) use exits::has_error;

use crate::cpu::control;
use crate::exit::Event;
use crate::machine::machine;
use crate::memory::{CoreTables, Frames};
use crate::memory_type::{MemoryType, Mtrrs};
use crate::processor::{self, Cpu, wake};
use crate::registers::{CR0_ET, CR0_PE};
use crate::second_level::{Access, Format, SecondLevel};
use crate::sync::Lock;
use crate::vcpu::{Context, Extended, Setup, own_signature, reset_state, startup_state};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use hypervisor_abi::{GeneralRegisters, Segment, SegmentName, SystemRegisters};
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// Tag of root's translations.
pub const ROOT_TAG: u32 = 1;

/// What all of root's virtual CPUs share.
pub struct Root {
    tables: Lock<SecondLevel>,
    pointer: u64,
    msr_map: Lock<Frames>,
    port_map: HostPhysical,
    /// What was mapped at the start ends here.
    mapped: u64,
    /// What the tables repeat of the MTRRs, where they must.
    mtrrs: Lock<Option<Mtrrs>>,
    /// Physical addresses end here.
    end: u64,
    /// What root has not.
    core: [Span; 2],
    /// What it finds there when it reads: kernels that look through all of memory (/dev/mem, a crash dump)
    /// do not expect a fault.
    empty: HostPhysical,
    /// Processors that root does not run on: it starts them by INIT and start-up IPI, for which the core
    /// watches while there are some ([`apic`]).
    absent: AtomicUsize,
    /// How it sleeps; without it the firmware offers no sleep that turns the processors off.
    sleep: Option<sleep::Sleep>,
}

/// How a virtual CPU of root's starts.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// At a PVH entry, with start information.
    Boot {
        /// Where to.
        entry: HostPhysical,
        /// For EBX.
        information: HostPhysical,
    },
    /// A Linux kernel at its 32-bit entry.
    Linux {
        /// Where to.
        entry: HostPhysical,
        /// For ESI.
        zero_page: HostPhysical,
    },
    /// Waiting for root's own INIT and SIPI.
    Wait,
}

impl Root {
    /// Root with all of the machine but `core`. `None` when the core is out of memory.
    pub fn new(
        format: Format,
        core: [Span; 2],
        memory_end: u64,
        address_bits: u32,
        sleep: Option<sleep::Sleep>,
    ) -> Option<Self> {
        let mut tables = SecondLevel::new(format, CoreTables)?;
        let end = memory_end.max(1 << 32).next_multiple_of(1 << 30);
        let mut free = MemoryMap::<8>::new();
        free.insert(Span::of(HostPhysical(0), Bytes(end)), Kind::Usable).ok()?;
        for span in core {
            free.subtract(span).ok()?;
        }
        let mtrrs = memory_types::current();
        for range in free.ranges() {
            memory_types::map(&mut tables, range.span, mtrrs.as_ref())?;
        }
        let mut msr_map = Frames::allocate(2)?;
        exits::fill_msr_map(msr_map.bytes_mut());
        let mut port_map = Frames::allocate(3)?;
        let watched = sleep.iter().flat_map(|sleep| sleep.control.ports).filter(|port| *port != 0);
        for byte in watched.flat_map(|port| [usize::from(port), usize::from(port) + 1]) {
            // A bit each; on Intel two maps, one behind the other (SDM 3C 25.6.4, APM 2 15.10.1).
            port_map.bytes_mut()[byte / 8] |= 1 << (byte % 8);
        }
        Some(Self {
            pointer: tables.root_pointer(),
            tables: Lock::new(tables),
            msr_map: Lock::new(msr_map),
            port_map: port_map.into_raw(),
            mapped: end,
            mtrrs: Lock::new(mtrrs),
            end: 1 << address_bits.min(48),
            core,
            empty: Frames::allocate(1)?.into_raw(),
            absent: AtomicUsize::new(0),
            sleep,
        })
    }

    /// Takes `span` away from root on every CPU, or gives it back; what is so already stays. False when
    /// the core is out of memory for the tables.
    fn set_access(&self, span: Span, allowed: bool) -> bool {
        let mut tables = self.tables.lock();
        if !allowed {
            let done = tables.unmap(GuestPhysical(span.start.0), span.size()).is_ok();
            forget_everywhere();
            tables.release_retired();
            return done;
        }
        let mut at = span.start.0;
        while at < span.end.0 {
            if let Some(found) = tables.translate(GuestPhysical(at)) {
                at += found.left();
                continue;
            }
            let is_mapped = |page: &u64| tables.translate(GuestPhysical(*page)).is_some();
            let end = (at..span.end.0).step_by(PAGE_SIZE as usize).find(is_mapped);
            let hole = Span { start: HostPhysical(at), end: end.map_or(span.end, HostPhysical) };
            if map(&mut tables, hole, MemoryType::WriteBack).is_none() {
                return false;
            }
            at = hole.end.0;
        }
        true
    }
}

/// Maps `span` for root one to one. `None` when the core is out of memory.
fn map(tables: &mut SecondLevel, span: Span, memory_type: MemoryType) -> Option<()> {
    let guest = GuestPhysical(span.start.0);
    tables.map(guest, span.start, span.size(), Access::ALL, memory_type).ok()
}

/// Makes every CPU forget what root's tables said. One that is in the core does so before it enters
/// root again; one that is in root is made to leave it, and waited for.
fn forget_everywhere() {
    for cpu in processor::all() {
        cpu.notify_if_inside(wake::FLUSH);
    }
    for cpu in processor::all() {
        while cpu.is_inside(wake::FLUSH) {
            core::hint::spin_loop();
        }
    }
}

static ROOT: AtomicPtr<Root> = AtomicPtr::new(core::ptr::null_mut());

/// Takes `span` away from root on every CPU, or gives it back. False when the core is out of memory.
pub fn set_access(span: Span, allowed: bool) -> bool {
    let root = ROOT.load(Ordering::Acquire);
    // SAFETY: `run` stores a reference that lives for good.
    #[expect(unsafe_code, reason = "root's own data, which lives for good")]
    unsafe { root.as_ref() }.is_some_and(|root| root.set_access(span, allowed))
}

/// Runs root on this CPU for good.
pub fn run(mut cpu: Cpu, root: &'static Root, start: Start) -> ! {
    ROOT.store(core::ptr::from_ref(root).cast_mut(), Ordering::Release);
    let setup = Setup {
        root: true,
        second_level: root.pointer,
        msr_map: root.msr_map.lock().physical(),
        port_map: root.port_map,
        tag: ROOT_TAG,
        tsc_offset: 0,
    };
    let mut root = RootCpu {
        root,
        context: Context::new(&cpu.vendor, &setup).expect("a control block was set aside for root"),
        presence: Presence::Waits,
        nmi: false,
        extended: Extended::new(&machine().extended).expect("an area was set aside for root"),
    };
    if machine().extended.xsave {
        root.extended.note_xcr0(control::xcr0());
    }
    match start {
        // Xen docs/misc/pvh: any flat segments.
        Start::Boot { entry, information } => root.start_flat(entry, [8, 16], 3, information),
        // Linux Documentation/arch/x86/boot.rst, "32-bit boot protocol": these selectors.
        Start::Linux { entry, zero_page } => root.start_flat(entry, [0x10, 0x18], 6, zero_page),
        Start::Wait => {}
    }
    loop {
        root.attend(&mut cpu);
        if root.presence != Presence::Runs {
            cpu.vendor.idle(&cpu.shared.wake);
            // One that waits for a start-up IPI takes no NMI (SDM 3A 11.4.7.4).
            root.nmi |= cpu.nmi_is_foreign() && root.presence == Presence::Parked;
            continue;
        }
        // Said before the last look: whoever asks for something after it sends an NMI.
        cpu.shared.go_inside();
        if cpu.shared.wake.load(Ordering::SeqCst) != 0 {
            cpu.shared.come_out();
            continue;
        }
        let exit = root.context.enter(&mut cpu.vendor, None);
        cpu.shared.come_out();
        cpu.shared.count(&exit);
        exits::answer(&mut root, &mut cpu, exit);
    }
}

/// Whether one of root's virtual CPUs runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It does.
    Runs,
    /// It waits for a start-up IPI.
    Waits,
    /// It halted without interrupts: off line, until INIT or an NMI.
    Parked,
}

/// One of root's virtual CPUs.
struct RootCpu {
    root: &'static Root,
    context: Context,
    presence: Presence,
    /// An NMI waits to be delivered.
    nmi: bool,
    /// Its floating point and kin while a guest runs here.
    extended: Extended,
}

/// Flat 32-bit segments as PVH and 32-bit programs expect them.
fn flat(selector: u16, kind: u16) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        // Present, S, 32-bit, 4 KiB granularity.
        attributes: 0xc090 | kind,
    }
}

impl RootCpu {
    /// Starts it in 32-bit protected mode with flat code and data segments, as the boot loader of
    /// `register` would: `information` is there.
    fn start_flat(
        &mut self,
        entry: HostPhysical,
        [code, data]: [u16; 2],
        register: usize,
        information: HostPhysical,
    ) {
        let (mut system, mut general) = reset_state(own_signature());
        general.rip = entry.0;
        for segment in &mut system.segments[..6] {
            *segment = flat(data, 3);
        }
        system.segments[SegmentName::Cs as usize] = flat(code, 0xb);
        system.segments[SegmentName::Task as usize].limit = 0x67;
        system.cr0 = CR0_PE | CR0_ET;
        general.general[register] = information.0;
        self.set_state(&(system, general));
        // The one processor that nobody counted as absent.
        self.presence = Presence::Runs;
    }

    fn set_state(&mut self, state: &(SystemRegisters, GeneralRegisters)) {
        self.context.write_system(&state.0);
        self.context.set_registers(&state.1);
    }

    /// It runs from now on, or does not any longer.
    fn set_presence(&mut self, presence: Presence) {
        let [before, after] = [self.presence, presence].map(|which| which == Presence::Runs);
        self.presence = presence;
        if before != after {
            self.root.set_absent(!after);
        }
    }

    /// Does what other CPUs asked for.
    fn attend(&mut self, cpu: &mut Cpu) {
        let shared = cpu.shared;
        if shared.wake.load(Ordering::Relaxed) != 0 {
            let bits = shared.wake.swap(0, Ordering::SeqCst);
            if bits & wake::STOP != 0 {
                control::stop();
            }
            if bits & wake::SLEEP != 0 && sleep::is_waking() {
                self.sleep(cpu);
            }
            if bits & wake::INIT != 0 {
                self.set_state(&reset_state(own_signature()));
                self.set_presence(Presence::Waits);
            }
            if bits & wake::STARTUP != 0 && self.presence == Presence::Waits {
                self.set_state(&startup_state(bits as u8, own_signature()));
                self.set_presence(Presence::Runs);
            }
            if bits & wake::FLUSH != 0 {
                self.context.flush_tlb(&cpu.vendor);
            }
            self.nmi |= bits & wake::NMI != 0;
        }
        if self.nmi && self.presence != Presence::Waits {
            self.set_presence(Presence::Runs);
            if self.context.accepts_nmi() {
                self.nmi = false;
                self.context.inject(Event::Nmi);
            } else {
                // Root's own NMI may wait for any exit.
                let _ = self.context.await_nmi();
            }
        }
    }
}

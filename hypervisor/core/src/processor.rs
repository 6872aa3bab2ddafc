//! One physical CPU: its own data, which is found by the GS base, and what the other CPUs may do to it.
//!
//! `unsafe` here: the GS base and the table of all CPUs.
#![allow(unsafe_code)]

use crate::cpu::descriptors::Tables;
use crate::cpu::suspension::Place;
use crate::cpu::{control, exceptions, msr, physical_apic};
use crate::exit::{Exit, KINDS};
use crate::memory::{CpuSpace, Object, Window};
use crate::svm::{self, SvmCpu};
use crate::translations::Translations;
use crate::vmx::{self, VmxCpu};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The most physical CPUs.
pub const MAX_CPUS: usize = 64;

/// The vendor's part of a physical CPU.
#[expect(clippy::large_enum_variant, reason = "a machine has one vendor")]
pub enum Vendor {
    /// AMD SVM is on.
    Svm(SvmCpu),
    /// Intel VMX is on.
    Vmx(VmxCpu),
}

/// Whether this processor virtualizes with VMX (CPUID 1 ECX bit 5), else with SVM or not at all.
pub fn has_vmx() -> bool {
    control::cpuid(1, 0)[2] & 1 << 5 != 0
}

/// Writes to the log what this processor lacks to run the core; true when it lacks nothing.
pub fn is_complete() -> bool {
    let mut complete = true;
    let report = |missing: core::fmt::Arguments<'_>| {
        crate::log!("this processor lacks: {missing}");
        complete = false;
    };
    if has_vmx() {
        vmx::missing(report)
    } else {
        svm::missing(report)
    }
    complete
}

impl Vendor {
    /// Turns on what this processor virtualizes with. `None`, and a line in the log, when that failed.
    pub fn enable() -> Option<Self> {
        if has_vmx() { VmxCpu::enable().map(Self::Vmx) } else { SvmCpu::enable().map(Self::Svm) }
    }

    /// Turns it on again on the same processor, which was off.
    pub fn again(&mut self) {
        match self {
            Self::Svm(cpu) => cpu.again(),
            Self::Vmx(cpu) => cpu.again(),
        }
    }

    /// Lets an NMI that waits reach the core's handler, which counts it.
    pub fn take_nmi(&self) {
        match self {
            Self::Svm(cpu) => cpu.take_nmi(),
            Self::Vmx(cpu) => cpu.take_nmi(),
        }
    }

    /// Halts until `word` is not 0; whoever changes it sends an NMI.
    pub fn idle(&self, word: &AtomicU32) {
        match self {
            Self::Svm(cpu) => cpu.with_nmis(|| exceptions::idle(word)),
            Self::Vmx(_) => exceptions::idle(word),
        }
    }

    /// Whether the core ends a run by itself when the guest's timer is due.
    pub const fn has_timer(&self) -> bool {
        matches!(self, Self::Vmx(_))
    }
}

/// What other CPUs may touch of one: it is where the GS base points. The assembly knows `current_vmcs` and `nmis`.
#[repr(C)]
pub struct Shared {
    /// Its number, from 0.
    pub index: u32,
    /// Its physical APIC id.
    pub apic_id: u32,
    /// Physical address of the VMCS that is current on it, 0 for none (`vmx::vmcs`).
    current_vmcs: AtomicU64,
    /// NMIs its own handler took and nobody looked at yet.
    nmis: AtomicU32,
    /// An NMI of the core's is on its way.
    kicked: AtomicBool,
    /// Not 0: root's virtual CPU on it has something to do besides running ([`wake`]).
    pub wake: AtomicU32,
    /// It is in root, or on the way there.
    inside: AtomicBool,
    /// Exits of root's virtual CPU on it, by kind.
    exits: [AtomicU64; KINDS.len()],
    /// Its GDT and TSS.
    tables: *mut Tables,
    /// Where it was when it was turned off.
    pub place: Place,
}

// SAFETY: only the processor itself uses the tables, all else is atomic or constant.
unsafe impl Sync for Shared {}

/// Bits of [`Shared::wake`].
pub mod wake {
    /// Start at the start-up IPI's vector, bits 0 to 7.
    pub const STARTUP: u32 = 1 << 8;
    /// INIT.
    pub const INIT: u32 = 1 << 9;
    /// Root's tables changed: forget translations.
    pub const FLUSH: u32 = 1 << 10;
    /// An NMI for root.
    pub const NMI: u32 = 1 << 11;
    /// The core has stopped the machine: do nothing any more.
    pub const STOP: u32 = 1 << 12;
    /// The machine goes to sleep.
    pub const SLEEP: u32 = 1 << 13;
}

const _: () = assert!(core::mem::offset_of!(Shared, current_vmcs) == 8);
const _: () = assert!(core::mem::offset_of!(Shared, nmis) == 16);

/// One physical CPU.
pub struct Cpu {
    /// What the other CPUs may touch.
    pub shared: &'static Shared,
    /// Windows onto memory.
    pub window: Window,
    /// The vendor's part.
    pub vendor: Vendor,
    /// Whose translations it may hold.
    pub translations: Translations,
    /// The partition a guest of which ran here last.
    pub last_partition: u32,
}

static CPUS: [AtomicPtr<Shared>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

impl Cpu {
    /// A guest of this partition runs here next. Where it is not the last one's, branch predictions of
    /// that one end, if the processor can do that.
    pub fn enter_partition(&mut self, number: u32) {
        if self.last_partition != number {
            self.last_partition = number;
            if crate::machine::machine().extended.barrier {
                crate::vcpu::barrier();
            }
        }
    }

    /// Takes note of an NMI; true when it was not one the core had sent.
    pub fn nmi_is_foreign(&mut self) -> bool {
        self.vendor.take_nmi();
        self.shared.nmis.store(0, Ordering::Relaxed);
        !self.shared.kicked.swap(false, Ordering::SeqCst)
    }
}

impl Shared {
    /// Sends the CPU an NMI, unless one is on its way.
    pub fn kick(&self) {
        if !self.kicked.swap(true, Ordering::SeqCst) {
            physical_apic::send(self.apic_id, physical_apic::NMI);
        }
    }

    /// Counts an exit of root's; only this CPU itself does.
    #[inline]
    pub fn count(&self, exit: &Exit) {
        let counter = &self.exits[exit.kind()];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Exits of root's virtual CPU on it, by kind.
    pub fn exits(&self) -> [u64; KINDS.len()] {
        core::array::from_fn(|kind| self.exits[kind].load(Ordering::Relaxed))
    }

    /// Root is entered here next.
    #[inline]
    pub fn go_inside(&self) {
        self.inside.store(true, Ordering::SeqCst);
    }

    /// Root was left.
    #[inline]
    pub fn come_out(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// Sets bits of [`Self::wake`]; makes the CPU look at them when it is in root. Otherwise it looks
    /// before it enters root.
    pub fn notify_if_inside(&self, bits: u32) {
        self.wake.fetch_or(bits, Ordering::SeqCst);
        if self.inside.load(Ordering::SeqCst) {
            self.kick();
        }
    }

    /// Whether it is in root and has not looked at these bits.
    pub fn is_inside(&self, bits: u32) -> bool {
        self.wake.load(Ordering::SeqCst) & bits != 0 && self.inside.load(Ordering::SeqCst)
    }

    /// Sets bits of [`Self::wake`] and makes the CPU look at them.
    pub fn notify(&self, bits: u32) {
        self.wake.fetch_or(bits, Ordering::SeqCst);
        self.kick();
    }
}

impl Shared {
    /// Loads this processor's tables and registers that the rest of the core relies on.
    ///
    /// # Safety
    /// It is the data of the processor that runs.
    unsafe fn load(&'static self) {
        // SAFETY: the tables were given up for good, so they neither move nor go, and are this processor's.
        unsafe { (*self.tables).load() };
        // SAFETY: the handlers find `self` there.
        unsafe { msr::write(msr::GS_BASE, ptr::from_ref(self) as u64) };
        // AMD's nested tables name memory types through the core's PAT: the values after power-on.
        // SAFETY: the core's own pages are write-back or uncached by entries 0 and 3, as after power-on.
        unsafe { msr::write(msr::PAT, crate::msr::PAT_RESET) };
    }

    /// The processor was off: it goes on where it was.
    ///
    /// # Safety
    /// It is the data of the processor that runs, which has left by [`Self::place`] and was off since.
    pub unsafe fn come_back(&'static self) -> ! {
        // SAFETY: the caller's promise.
        unsafe { self.load() };
        self.current_vmcs.store(0, Ordering::SeqCst);
        self.nmis.store(0, Ordering::SeqCst);
        self.kicked.store(false, Ordering::SeqCst);
        self.wake.store(0, Ordering::SeqCst);
        self.inside.store(false, Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { self.place.go_on() }
    }
}

/// Stops all other CPUs for good: those that run root or a guest leave it.
pub fn stop_others() {
    let own = physical_apic::id();
    all().filter(|cpu| cpu.apic_id != own).for_each(|cpu| cpu.notify(wake::STOP));
}

/// Another CPU, as far as it may be touched.
pub fn by_index(index: usize) -> Option<&'static Shared> {
    let cpu = CPUS.get(index)?.load(Ordering::Acquire);
    // SAFETY: what the table points to is never freed, and holds atomics and constants only.
    unsafe { cpu.as_ref() }
}

/// All of them, in the order of their numbers.
pub fn all() -> impl Iterator<Item = &'static Shared> {
    (0..MAX_CPUS).map_while(by_index)
}

/// Makes this CPU's data, loads its tables and turns virtualization on. `None` when the core is out of
/// memory or that fails. The caller has checked that nothing is missing.
pub fn bring_up(index: u32, apic_id: u32, space: &CpuSpace) -> Option<Cpu> {
    let tables = Object::new(Tables::new(space.exception_stacks))?.into_raw();
    let shared: &'static Shared = Object::new(Shared {
        index,
        apic_id,
        current_vmcs: AtomicU64::new(0),
        nmis: AtomicU32::new(0),
        kicked: AtomicBool::new(false),
        wake: AtomicU32::new(0),
        inside: AtomicBool::new(false),
        exits: [const { AtomicU64::new(0) }; KINDS.len()],
        tables,
        place: Place::default(),
    })?
    .leak();
    // SAFETY: it was made for this processor a moment ago.
    unsafe { shared.load() };
    let vendor = Vendor::enable()?;
    CPUS[index as usize].store(ptr::from_ref(shared).cast_mut(), Ordering::Release);
    Some(Cpu {
        shared,
        window: Window::new(space),
        vendor,
        translations: Translations::default(),
        last_partition: 0,
    })
}

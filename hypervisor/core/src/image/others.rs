//! The other processors: started one after the other, all of them or none.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypervisor_boot::acpi::SleepControl;
use hypervisor_core::cpu::{control, descriptors, physical_apic, port};
use hypervisor_core::memory::{CpuSpace, Object};
use hypervisor_core::processor::{bring_up, is_complete};
use hypervisor_core::root::sleep::{self, Sleep};
use hypervisor_core::root::{self, Root, Start};
use hypervisor_core::sync::Lock;
use hypervisor_core::vcpu::ExtendedFeatures;
use units::HostPhysical;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static mut start_stack: u64;
    static mut start_tables: u32;
}

/// Where the trampoline is put for as long as processors start or the machine sleeps: below 1 MiB, away from the firmware's
/// tables. What was there is put back.
pub(super) const TRAMPOLINE: HostPhysical = HostPhysical(0x8000);

/// A processor: its APIC id, and what it finds in the core's page tables.
#[derive(Clone, Copy)]
pub(super) struct Processor {
    pub(super) id: u32,
    pub(super) space: CpuSpace,
}

/// What the processors need to come up.
pub(super) struct Plan {
    /// The first is the one that runs.
    pub(super) processors: &'static [Processor],
    pub(super) root: &'static Root,
    /// What the first does.
    pub(super) start: Start,
}

static PLAN: Lock<Option<&'static Plan>> = Lock::new(None);
/// Number of the processor that starts.
static STARTING: AtomicU32 = AtomicU32::new(0);
/// What became of it.
static OUTCOME: AtomicU32 = AtomicU32::new(0);
const READY: u32 = 1;
const FAILED: u32 = 2;
/// What all of them do then.
static VERDICT: AtomicU32 = AtomicU32::new(0);
const GO: u32 = 1;
const GIVE_UP: u32 = 2;
/// How many have done it.
static GAVE_UP: AtomicU64 = AtomicU64::new(0);

/// Keeps the plan, and the core's page tables for the others to start with.
pub(super) fn prepare(tables: HostPhysical, plan: Plan) {
    let tables = u32::try_from(tables.0).expect("frames lie below 4 GiB");
    // SAFETY: no processor is on its way.
    unsafe { (&raw mut start_tables).write_volatile(tables) };
    *PLAN.lock() = Some(Object::new(plan).expect("the core is out of memory").leak());
}

/// The plan.
pub(super) fn plan() -> &'static Plan {
    PLAN.lock().expect("prepared before")
}

/// What was where the trampoline is.
static KEPT: Lock<[u8; 256]> = Lock::new([0; 256]);

/// Puts the trampoline where processors start, or what was there back.
fn lay(trampoline: bool) {
    let page = TRAMPOLINE.0 as *mut u8;
    let code = &raw const trampoline_start;
    let length = (&raw const trampoline_end) as usize - code as usize;
    let mut kept = KEPT.lock();
    assert!(length <= kept.len());
    // SAFETY: the page is RAM on every PC; its bytes are kept and put back, and nobody runs there then.
    unsafe {
        if trampoline {
            core::ptr::copy_nonoverlapping(page, kept.as_mut_ptr(), length);
            core::ptr::copy_nonoverlapping(code, page, length);
        } else {
            core::ptr::copy_nonoverlapping(kept.as_ptr(), page, length);
        }
    }
}

/// The processor that starts next, and its stack.
fn announce(index: usize, stack: u64) {
    OUTCOME.store(0, Ordering::SeqCst);
    STARTING.store(index as u32, Ordering::SeqCst);
    // SAFETY: the only processor that reads it has not started yet.
    unsafe { (&raw mut start_stack).write_volatile(stack) };
}

/// A stack for a processor whose own is in use: that for machine checks.
const fn spare_stack(processor: &Processor) -> u64 {
    processor.space.exception_stacks[2]
}

/// What a sleep takes of the image, where the firmware says how the machine is put to sleep.
pub(super) fn sleep(control: SleepControl) -> Sleep {
    let lays = |lay_it| {
        // The first processor is the one that the firmware wakes.
        announce(0, spare_stack(&plan().processors[0]));
        lay(lay_it);
    };
    let starts_others = || {
        for (index, processor) in plan().processors.iter().enumerate().skip(1) {
            announce(index, spare_stack(processor));
            assert!(send_start(processor.id), "processor {index} does not come out of the sleep");
        }
    };
    Sleep { control, entry: TRAMPOLINE, lays, starts_others }
}

/// Starts all but the first. When one fails all are given back and the machine stops with the reason.
pub(super) fn start(processors: &[Processor]) {
    if processors.len() == 1 {
        return;
    }
    lay(true);
    let failed = processors.iter().enumerate().skip(1).find_map(|(index, processor)| {
        announce(index, processor.space.stack);
        if !send_start(processor.id) {
            return Some((index, "it did not start"));
        }
        let why = "it lacks something or the core is out of memory: see above";
        (OUTCOME.load(Ordering::SeqCst) == FAILED).then_some((index, why))
    });
    lay(false);
    let Some((index, why)) = failed else {
        VERDICT.store(GO, Ordering::SeqCst);
        return;
    };
    VERDICT.store(GIVE_UP, Ordering::SeqCst);
    while GAVE_UP.load(Ordering::SeqCst) < index as u64 - 1 {
        core::hint::spin_loop();
    }
    panic!(
        "processor {index} (APIC id {}) cannot run the core: {why}; the others were given back",
        processors[index].id
    );
}

/// INIT, then up to two start-up IPIs (SDM 3A 9.4.4). True when the processor has reported.
fn send_start(id: u32) -> bool {
    let reported = || OUTCOME.load(Ordering::SeqCst) != 0;
    // A write to port 0x80 takes about a microsecond on every PC.
    let wait = |microseconds: u32| {
        (0..microseconds).any(|_| {
            port::write_u8(0x80, 0);
            reported()
        })
    };
    physical_apic::send(id, physical_apic::INIT);
    wait(200);
    for patience in [10_000, 1_000_000] {
        physical_apic::send(id, physical_apic::STARTUP | (TRAMPOLINE.0 >> 12) as u32);
        if wait(patience) {
            return true;
        }
    }
    // Emulators answer port 0x80 faster than that: give it more turns of the loop.
    (0..50_000_000).any(|_| {
        core::hint::spin_loop();
        reported()
    })
}

#[unsafe(no_mangle)]
extern "C" fn core_other() -> ! {
    descriptors::load_idt();
    physical_apic::prepare_other();
    if sleep::is_waking() { come_back() } else { begin() }
}

/// On the small stack that [`spare_stack`] gives: apart from what needs the large one.
#[inline(never)]
fn come_back() -> ! {
    set_up();
    let index = STARTING.load(Ordering::SeqCst);
    OUTCOME.store(READY, Ordering::SeqCst);
    // SAFETY: the trampoline has led here, on the stack that `announce` named.
    unsafe { sleep::wake_up(index as usize) }
}

/// CR4 as on the first processor.
fn set_up() {
    let _ = ExtendedFeatures::detect(plan().processors.len());
}

#[inline(never)]
fn begin() -> ! {
    let index = STARTING.load(Ordering::SeqCst);
    let plan = plan();
    set_up();
    let space = &plan.processors[index as usize].space;
    let cpu = is_complete().then(|| bring_up(index, physical_apic::id(), space)).flatten();
    OUTCOME.store(if cpu.is_some() { READY } else { FAILED }, Ordering::SeqCst);
    while VERDICT.load(Ordering::SeqCst) == 0 {
        core::hint::spin_loop();
    }
    if let Some(cpu) = cpu
        && VERDICT.load(Ordering::SeqCst) == GO
    {
        root::run(cpu, plan.root, Start::Wait);
    }
    GAVE_UP.fetch_add(1, Ordering::SeqCst);
    control::stop()
}

//! The machine's other processors: found in the ACPI MADT, started one after the other.

use super::{apic, control, interrupts, memory};
use crate::tables;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use units::HostPhysical;

/// Where the trampoline may go: a page of conventional memory, whose number is the SIPI vector. The
/// first holds the interrupt table of real mode.
const CONVENTIONAL: Span = Span { start: HostPhysical(0x1000), end: HostPhysical(0xa_0000) };
const PAGE: u64 = 4096;
const STACK: usize = 64 << 10;
/// How long a processor may take to start, in ticks of the time-stamp counter.
const PATIENCE: u64 = 2_000_000_000;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static mut other_stack_top: u64;
    static mut other_index: u64;
}

/// What processors other than the first run.
type Work = Box<dyn Fn(usize) + Send + Sync>;

static STARTED: AtomicU64 = AtomicU64::new(0);
static WORK: AtomicPtr<Work> = AtomicPtr::new(core::ptr::null_mut());

/// Local APIC ids of all processors, the one that asks first. Without ACPI tables there is just it.
#[must_use]
pub fn find(rsdp: HostPhysical) -> Vec<u32> {
    // SAFETY: ACPI tables lie in memory nobody writes to.
    let read = |at, size| unsafe { memory::table(at, size) };
    let mut ids = tables::processors(rsdp.0, &read);
    let own = apic::id();
    ids.retain(|id| *id != own);
    ids.insert(0, own);
    ids
}

/// Starts the processors with these local APIC ids, the first of which is the caller's; each runs
/// `work` with its index. Gives the indexes of those that came.
pub fn start<const N: usize>(
    ids: &[u32],
    map: &MemoryMap<N>,
    work: impl Fn(usize) + Send + Sync + 'static,
) -> Vec<usize> {
    let mut present = vec![0];
    if ids.len() < 2 {
        return present;
    }
    let work: Work = Box::new(work);
    WORK.store(Box::leak(Box::new(work)), Ordering::Release);
    let free = map
        .of_kind(Kind::Usable)
        .map(|span| span.intersection(&CONVENTIONAL).aligned(PAGE))
        .find(|span| span.size().0 >= PAGE);
    let Some(HostPhysical(trampoline)) = free.map(|span| span.start) else {
        return present;
    };
    // SAFETY: the page is RAM that nothing of the monitor's lies in, and the code fits it.
    unsafe {
        let (from, end) = (&raw const trampoline_start, &raw const trampoline_end);
        let size = end as usize - from as usize;
        core::ptr::copy_nonoverlapping(from, trampoline as *mut u8, size);
    }
    for (index, id) in ids.iter().enumerate().skip(1) {
        let stack = vec![0u8; STACK].leak().as_ptr_range().end as u64 & !15;
        // SAFETY: no processor is starting now; the one started next reads them.
        unsafe {
            (&raw mut other_stack_top).write_volatile(stack);
            (&raw mut other_index).write_volatile(index as u64);
        }
        let before = STARTED.load(Ordering::Acquire);
        apic::start(*id, (trampoline / PAGE) as u8);
        let begin = control::tsc().0;
        while STARTED.load(Ordering::Acquire) == before {
            if control::tsc().0 - begin > PATIENCE {
                break;
            }
            core::hint::spin_loop();
        }
        if STARTED.load(Ordering::Acquire) == before {
            // A late one would take the next one's stack: start no more.
            break;
        }
        present.push(index);
    }
    present
}

/// Called by `entry.s` on each of them.
#[unsafe(no_mangle)]
extern "C" fn monitor_other(index: usize) -> ! {
    interrupts::prepare_processor();
    apic::prepare();
    let work = WORK.load(Ordering::Acquire);
    STARTED.fetch_add(1, Ordering::Release);
    // SAFETY: stored before this processor was started, and leaked.
    if let Some(work) = unsafe { work.as_ref() } {
        work(index);
    }
    control::stop()
}

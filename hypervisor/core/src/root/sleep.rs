//! Suspend to RAM (S3): the processors are off and memory stays. Root's write to a sleep control register
//! (ACPI 6.5 4.8.3.2.1) exits; the core has the firmware come back to itself, and lets root wake as from the firmware.
//!
//! Root's kernel has taken all other processors off line by then. They are the core's still, and wait until they are off, too.

use super::{Presence, RootCpu};
use crate::cpu::{control, port};
use crate::exit::{Exit, GENERAL_PROTECTION, PortAccess};
use crate::memory::Window;
use crate::partition;
use crate::processor::{self, Cpu, wake};
use crate::sync::Lock;
use crate::vcpu::{own_signature, waking_state};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypervisor_boot::acpi::SleepControl;
use units::HostPhysical;

/// SLP_EN (ACPI 6.5 table 4.16), in the upper of the register's bytes.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Where a FACS has the firmware's waking vector, 32 bits (ACPI 6.5 table 5.12).
const WAKING_VECTOR: u64 = 12;
/// Microseconds in which the machine goes to sleep.
const PATIENCE: u32 = 500_000;

/// What sleeping takes of the image.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// Registers and table.
    pub control: SleepControl,
    /// Where the firmware is to go on behind the sleep, below 1 MiB.
    pub entry: HostPhysical,
    /// Puts there what leads this processor to [`wake_up`], for `lays(true)`; puts back what was there before.
    pub lays: fn(bool),
    /// Starts the other processors, which go to [`wake_up`].
    pub starts_others: fn(),
}

/// All processors are awake, or on their way into a sleep or out of it.
static ASLEEP: AtomicU32 = AtomicU32::new(AWAKE);
const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
/// Processors that wait to be turned off.
static WAITING: AtomicU32 = AtomicU32::new(0);
/// The write that turns the machine off: port, width, value.
static WRITE: Lock<(u16, u8, u32)> = Lock::new((0, 0, 0));
/// Sleeps since the start.
static SLEEPS: AtomicU64 = AtomicU64::new(0);

/// Whether a processor that starts comes out of a sleep.
pub fn is_waking() -> bool {
    ASLEEP.load(Ordering::SeqCst) == SLEEPING
}

/// A processor with this number comes out of a sleep: goes on where it was. It has the core's page tables and IDT.
///
/// # Safety
/// [`is_waking`], and it has just been started on a stack that is not its own.
#[expect(unsafe_code, reason = "goes on where the processor was")]
pub unsafe fn wake_up(index: usize) -> ! {
    let shared = processor::by_index(index).expect("a processor that was asleep");
    // SAFETY: the caller's promise.
    unsafe { shared.come_back() }
}

/// Where an access to ports has the upper byte of a sleep control register, if it has.
fn upper_byte(control: &SleepControl, access: &PortAccess) -> Option<u32> {
    (0..u32::from(access.width)).find(|byte| {
        let at = u32::from(access.port) + byte;
        control.ports.iter().any(|port| *port != 0 && u32::from(*port) + 1 == at)
    })
}

/// Root's access to a port that the core watches.
pub(super) fn access(root: &mut RootCpu, cpu: &mut Cpu, access: &PortAccess) {
    let Some(sleep) = root.root.sleep.filter(|_| !access.string) else {
        return root.context.inject(GENERAL_PROTECTION);
    };
    root.advance(cpu, &Exit::Port(*access));
    let before = root.context.general()[0];
    let mask = u64::MAX >> (64 - 8 * u32::from(access.width));
    if access.input {
        let value = u64::from(port::read(access.port, access.width));
        // Four bytes clear the upper half of the register, fewer leave the rest (SDM 1 3.4.1.1).
        let kept = if access.width == 4 { 0 } else { before & !mask };
        root.context.general_mut()[0] = kept | value;
        return;
    }
    let value = (before & mask) as u32;
    let enables = upper_byte(&sleep.control, access)
        .is_some_and(|byte| (value >> (8 * byte)) as u8 & SLEEP_ENABLE != 0);
    if !enables {
        return port::write(access.port, access.width, value);
    }
    *WRITE.lock() = (access.port, access.width, value);
    fall_asleep(root, cpu, &sleep);
}

fn vector(window: &mut Window, sleep: &Sleep) -> [u8; 4] {
    let mut vector = [0; 4];
    window.read(HostPhysical(sleep.control.facs.0 + WAKING_VECTOR), &mut vector);
    vector
}

fn set_vector(window: &mut Window, sleep: &Sleep, vector: [u8; 4]) {
    window.write(HostPhysical(sleep.control.facs.0 + WAKING_VECTOR), &vector);
}

fn fall_asleep(root: &mut RootCpu, cpu: &mut Cpu, sleep: &Sleep) {
    let first =
        ASLEEP.compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if !first {
        // Another processor of root's does the same at the same time.
        return root.sleep(cpu);
    }
    let own = cpu.shared.index;
    let others = || processor::all().filter(|other| other.index != own);
    others().for_each(|other| other.notify(wake::SLEEP));
    while WAITING.load(Ordering::SeqCst) < others().count() as u32 {
        core::hint::spin_loop();
    }
    (sleep.lays)(true);
    let roots = vector(&mut cpu.window, sleep);
    // Whatever kind of sleep it is: only one that ends by the vector keeps memory.
    set_vector(&mut cpu.window, sleep, (sleep.entry.0 as u32).to_le_bytes());
    root.context.release();
    let before = control::tsc();
    control::flush_caches();
    let slept = cpu.shared.place.leave(turn_off);
    if slept {
        cpu.vendor.again();
        (sleep.starts_others)();
    }
    (sleep.lays)(false);
    set_vector(&mut cpu.window, sleep, roots);
    ASLEEP.store(AWAKE, Ordering::SeqCst);
    while WAITING.load(Ordering::SeqCst) > 0 {
        core::hint::spin_loop();
    }
    if !slept {
        crate::log!("the machine did not go to sleep");
        return;
    }
    partition::clock_stops(before);
    let count = SLEEPS.fetch_add(1, Ordering::Relaxed) + 1;
    let roots = u32::from_le_bytes(roots);
    crate::log!("awake after sleep {count}: root goes on at {roots:#x}");
    root.begin_again();
    root.set_state(&waking_state(roots, own_signature()));
    root.set_presence(Presence::Runs);
}

/// The write that root has made.
extern "C" fn turn_off() {
    let (port, width, value) = *WRITE.lock();
    port::write(port, width, value);
    // A write to port 0x80 takes about a microsecond on every PC.
    (0..PATIENCE).for_each(|_| port::write_u8(0x80, 0));
}

extern "C" fn wait() {
    while is_waking() {
        core::hint::spin_loop();
    }
}

impl RootCpu {
    /// Another processor turns the machine off: waits for it.
    pub(super) fn sleep(&mut self, cpu: &mut Cpu) {
        self.context.release();
        control::flush_caches();
        WAITING.fetch_add(1, Ordering::SeqCst);
        let slept = cpu.shared.place.leave(wait);
        if slept {
            cpu.vendor.again();
            self.begin_again();
            self.set_state(&crate::vcpu::reset_state(own_signature()));
            self.set_presence(Presence::Waits);
        }
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }

    /// The processor was off.
    fn begin_again(&mut self) {
        self.extended.reset();
        self.nmi = false;
    }
}

#[cfg(test)]
mod tests {
    use super::upper_byte;
    use crate::exit::PortAccess;
    use hypervisor_boot::acpi::SleepControl;
    use units::HostPhysical;

    #[test]
    fn the_enabling_bit_is_found_however_the_register_is_written() {
        let control = SleepControl { ports: [0x604, 0], facs: HostPhysical(0x1000) };
        let access = |port, width| {
            upper_byte(
                &control,
                &PortAccess { port, width, input: false, string: false, repeat: false },
            )
        };
        assert_eq!(access(0x604, 2), Some(1));
        assert_eq!(access(0x604, 4), Some(1));
        assert_eq!(access(0x605, 1), Some(0));
        assert_eq!(access(0x602, 4), Some(3));
        assert_eq!(access(0x603, 2), None);
        assert_eq!(access(0x604, 1), None);
        // There is no second register.
        assert_eq!(access(0, 2), None);
    }
}

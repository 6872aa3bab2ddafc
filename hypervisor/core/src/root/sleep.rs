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
use crate::vcpu::{own_signature, reset_state, waking_state};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hypervisor_boot::acpi::SleepControl;
use units::HostPhysical;

/// SLP_EN (ACPI 6.5 table 4.16), in the upper of the register's bytes.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Where a FACS has the firmware's waking vector, 32 bits (ACPI 6.5 table 5.12).
const WAKING_VECTOR: u64 = 12;
const NO_VECTOR: [u8; 4] = [0; 4];
/// WAK_STS (ACPI 6.5 table 4.13): the machine has slept, and the processors were not off.
const AWAKE_STATUS: u32 = 1 << 15;
/// How often the status is read, in about a microsecond each, until the machine must have gone to sleep; and where it wants
/// a second register written before it does.
const PATIENCE: u32 = 10_000_000;
const SHORT_PATIENCE: u32 = 10_000;

/// What sleeping takes of the image.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// Registers and table.
    pub control: SleepControl,
    /// Where the firmware is to go on behind the sleep, below 1 MiB.
    pub entry: HostPhysical,
    /// Puts there what leads the first processor to [`wake_up`], for `lays(true)`; puts back what was there before.
    pub lays: fn(bool),
    /// Starts the other processors, which go to [`wake_up`].
    pub starts_others: fn(),
}

/// The processors are on their way into a sleep or out of it.
static ASLEEP: AtomicBool = AtomicBool::new(false);
/// Processors that wait to be turned off.
static WAITING: AtomicU32 = AtomicU32::new(0);
/// The write that turns the machine off.
static WRITE: Lock<Option<Write>> = Lock::new(None);
/// Sleeps since the start.
static SLEEPS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Write {
    port: u16,
    width: u8,
    value: u32,
    status: u16,
    patience: u32,
}

/// Whether a processor that starts comes out of a sleep.
pub fn is_waking() -> bool {
    ASLEEP.load(Ordering::SeqCst)
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

/// Which sleep control register a write of `value` enables the sleep in.
fn enables(control: &SleepControl, access: &PortAccess, value: u32) -> Option<usize> {
    (0..u32::from(access.width)).find_map(|byte| {
        let at = u32::from(access.port) + byte;
        let is_upper = |port: &u16| *port != 0 && u32::from(*port) + 1 == at;
        let set = (value >> (8 * byte)) as u8 & SLEEP_ENABLE != 0;
        control.ports.iter().position(is_upper).filter(|_| set)
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
    let PortAccess { port, width, .. } = *access;
    let Some(register) = enables(&sleep.control, access, value) else {
        return port::write(port, width, value);
    };
    if cpu.shared.index != 0 {
        // The firmware wakes the first processor, on which kernels put the machine to sleep. To turn it off any will do.
        crate::log!("processor {} of root's turns the machine off", cpu.shared.index);
        return port::write(port, width, value);
    }
    let first_of_two = register == 0 && sleep.control.ports[1] != 0;
    let patience = if first_of_two { SHORT_PATIENCE } else { PATIENCE };
    *WRITE.lock() = Some(Write { port, width, value, status: sleep.control.status, patience });
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
    let others = || processor::all().filter(|other| other.index != 0);
    let count = others().count() as u32;
    if root.root.absent.load(Ordering::SeqCst) < count as usize {
        // A kernel that turns the machine off stops the others anyhow, even where no NMI reaches them; one that sleeps has
        // taken them off line.
        if vector(&mut cpu.window, sleep) == NO_VECTOR {
            write();
        } else {
            crate::log!("refused: root would sleep with processors on line");
        }
        return;
    }
    ASLEEP.store(true, Ordering::SeqCst);
    others().for_each(|other| other.notify(wake::SLEEP));
    while WAITING.load(Ordering::SeqCst) < count {
        core::hint::spin_loop();
    }
    (sleep.lays)(true);
    let roots = vector(&mut cpu.window, sleep);
    // Whatever kind of sleep it is: only one that ends by the vector keeps memory and turns the processors off.
    set_vector(&mut cpu.window, sleep, (sleep.entry.0 as u32).to_le_bytes());
    root.context.release();
    let before = control::tsc();
    let slept = cpu.shared.place.leave(turn_off);
    if slept {
        cpu.vendor.again();
        // What they said may have been in their caches.
        WAITING.store(count, Ordering::SeqCst);
        (sleep.starts_others)();
    }
    (sleep.lays)(false);
    set_vector(&mut cpu.window, sleep, roots);
    ASLEEP.store(false, Ordering::SeqCst);
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

/// Makes the write that root has made.
fn write() {
    if let Some(Write { port, width, value, .. }) = *WRITE.lock() {
        port::write(port, width, value);
    }
}

/// The same. What must outlive the sleep is written by now and goes to memory first.
extern "C" fn turn_off() {
    let Some(Write { port, width, value, status, patience }) = *WRITE.lock() else { return };
    control::flush_caches();
    port::write(port, width, value);
    let _ = (0..patience).any(|_| port::read(status, 2) & AWAKE_STATUS != 0);
}

/// Waits to be turned off, all of this processor's in memory; comes back when the machine does not go to sleep.
extern "C" fn wait() {
    control::flush_caches();
    WAITING.fetch_add(1, Ordering::SeqCst);
    while is_waking() {
        core::hint::spin_loop();
    }
}

impl RootCpu {
    /// Another processor turns the machine off: waits for it.
    pub(super) fn sleep(&mut self, cpu: &mut Cpu) {
        self.context.release();
        let slept = cpu.shared.place.leave(wait);
        if slept {
            cpu.vendor.again();
            self.begin_again();
            self.set_state(&reset_state(own_signature()));
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
    use super::enables;
    use crate::exit::PortAccess;
    use hypervisor_boot::acpi::SleepControl;
    use units::HostPhysical;

    #[test]
    fn the_enabling_bit_is_found_however_the_register_is_written() {
        let find = |ports, port, width, value| {
            let control = SleepControl { ports, status: 0x600, facs: HostPhysical(0x1000) };
            let access = PortAccess { port, width, input: false, string: false, repeat: false };
            enables(&control, &access, value)
        };
        let one = [0x604, 0];
        assert_eq!(find(one, 0x604, 2, 0x2401), Some(0));
        assert_eq!(find(one, 0x604, 2, 0x0401), None);
        assert_eq!(find(one, 0x604, 4, 0x2000), Some(0));
        assert_eq!(find(one, 0x605, 1, 0x20), Some(0));
        assert_eq!(find(one, 0x602, 4, 0x2000_0000), Some(0));
        assert_eq!(find(one, 0x603, 2, 0xffff), None);
        assert_eq!(find(one, 0x604, 1, 0xff), None);
        // There is no second register.
        assert_eq!(find(one, 0, 2, 0xffff), None);
        let two = [0x604, 0x606];
        assert_eq!(find(two, 0x606, 2, 0x2000), Some(1));
        assert_eq!(find(two, 0x604, 4, 0x2000_0000), Some(1));
    }
}

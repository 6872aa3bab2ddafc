//! The legacy devices and how they are wired: which port, which interrupt, whose output goes where.

use super::adapters::{IoApicRegisters, PicPorts, Scratch, claim_port_range, claim_ports};
use super::bus::{Bus, Overlap};
use super::lines::{ExternalInterrupt, IsaLine, MessageSink, SharedRouter};
use super::memory::GuestRam;
use super::power::PowerManagement;
use super::timers::{Chore, SharedDevice, Timers};
use crate::Console;
use chipset::{
    AcpiPm, ByteSink, ClockFn, DebugExit, Device, GuestBytes, HypercallPorts, I8042, IOAPIC_SIZE,
    InterruptRouter, IoApic, Line, MachineEvents, Pic, Pit, PmTimerWidth, PortDevice, PortRange,
    Rtc, SaveRestore, Uart,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

/// ISA interrupts of a PC (ICH9 5.8.3, table 5-15).
const TIMER_IRQ: u8 = 0;
const KEYBOARD_IRQ: u8 = 1;
const COM1_IRQ: u8 = 4;
const RTC_IRQ: u8 = 8;
const MOUSE_IRQ: u8 = 12;
/// Port that shows the BIOS's progress; guests write it to wait a microsecond.
const POST_PORT: u64 = 0x80;

pub(super) struct Chipset {
    pub(super) router: SharedRouter,
    pub(super) uart: Arc<Mutex<Uart>>,
    hypercalls: Arc<Mutex<HypercallPorts>>,
    /// Input goes to the hypercall ports (tiny guests) instead of the serial port.
    input_to_hypercalls: Arc<AtomicBool>,
    pub(super) power: Arc<PowerManagement>,
    pit: Arc<Mutex<Pit>>,
    rtc: Arc<Mutex<Rtc>>,
    keyboard: Arc<Mutex<I8042>>,
    /// Everything that is reset and inspected, the router excepted.
    pub(super) devices: Vec<SharedDevice>,
}

/// What the guest prints goes to the console; room for input wakes the thread that brings it.
struct PrintSink {
    console: Arc<Console>,
    timers: Arc<Timers>,
}

impl ByteSink for PrintSink {
    fn write(&mut self, bytes: &[u8]) {
        self.console.output(bytes);
    }

    fn input_wanted(&mut self) {
        self.timers.wake();
    }
}

/// Nanoseconds since 1970, UTC.
fn wall_clock() -> i128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos().cast_signed())
}

/// What the devices are wired to.
pub(super) struct Wires<'a> {
    pub(super) messages: Arc<MessageSink>,
    pub(super) external: Arc<ExternalInterrupt>,
    pub(super) events: Arc<dyn MachineEvents>,
    pub(super) timers: &'a Arc<Timers>,
    pub(super) console: &'a Arc<Console>,
    pub(super) ram: &'a GuestRam,
    pub(super) processors: u32,
}

impl Chipset {
    /// Makes the devices and puts them on the buses.
    pub(super) fn new(ports: &Arc<Bus>, memory: &Bus, wires: Wires<'_>) -> Result<Self, Overlap> {
        let Wires { messages, external, events, timers, console, ram, processors } = wires;
        let router = InterruptRouter::new(Pic::new(external), IoApic::new(messages));
        let pic_ranges = router.pic.ranges().to_vec();
        let router = Arc::new(Mutex::new(router));
        for range in pic_ranges {
            let handler = PicPorts { router: Arc::clone(&router), first: range.first };
            ports.claim(range.first.into(), range.count.into(), Arc::new(handler))?;
        }
        let registers = IoApicRegisters(Arc::clone(&router));
        memory.claim(layout::IOAPIC.0, IOAPIC_SIZE, Arc::new(registers))?;
        ports.claim(POST_PORT, 1, Arc::new(Scratch::default()))?;

        let line =
            |irq| -> Arc<dyn Line> { Arc::new(IsaLine { router: Arc::clone(&router), irq }) };
        let sink =
            || Box::new(PrintSink { console: Arc::clone(console), timers: Arc::clone(timers) });
        let uart = Uart::new("uart0", Uart::COM1, line(COM1_IRQ), sink());
        let uart = Arc::new(Mutex::new(uart));
        let hypercalls = HypercallPorts::new(
            sink(),
            Box::new(RamBytes(ram.memory().clone())),
            Arc::clone(&events),
        );
        let hypercalls = Arc::new(Mutex::new(hypercalls));
        let mut rtc = Rtc::new(Box::new(ClockFn(wall_clock)), line(RTC_IRQ));
        let (low, high) = ram.split();
        rtc.set_memory(low, high);
        rtc.set_processors(processors);
        let power = PowerManagement::new(
            AcpiPm::new(PmTimerWidth::Bits32, line(layout::SCI), Arc::clone(&events)),
            Arc::clone(ports),
            Arc::clone(timers),
        );
        for fixed in
            [PortRange::new(chipset::SMI_COMMAND, 2), PortRange::new(chipset::RESET_CONTROL, 1)]
        {
            claim_port_range(ports, &power.shared(), timers, fixed)?;
        }
        let pit = Arc::new(Mutex::new(Pit::new(line(TIMER_IRQ))));
        let rtc = Arc::new(Mutex::new(rtc));
        let keyboard = I8042::new(line(KEYBOARD_IRQ), line(MOUSE_IRQ), Arc::clone(&events));
        let keyboard = Arc::new(Mutex::new(keyboard));
        let mut devices: Vec<SharedDevice> = vec![
            Arc::clone(&uart) as SharedDevice,
            Arc::clone(&hypercalls) as SharedDevice,
            Arc::clone(&pit) as SharedDevice,
            Arc::clone(&rtc) as SharedDevice,
            Arc::clone(&keyboard) as SharedDevice,
            share(DebugExit::new(events)),
        ];
        for device in &devices {
            claim_ports(ports, device, timers)?;
        }
        devices.push(power.shared());
        Ok(Self {
            router,
            uart,
            hypercalls,
            input_to_hypercalls: Arc::new(AtomicBool::new(false)),
            power: Arc::new(power),
            pit,
            rtc,
            keyboard,
            devices,
        })
    }

    /// Takes in a device that is on its bus already.
    pub(super) fn adopt(&mut self, device: SharedDevice) {
        self.devices.push(device);
    }

    /// As firmware leaves the power management block, for a kernel started without any.
    pub(super) fn enable_acpi(&self) {
        lock(&self.power.device).enable_acpi();
    }

    /// Those the timer thread looks at.
    pub(super) fn timed(&self) -> Vec<SharedDevice> {
        let timed = |device: &&SharedDevice| lock(device).timed().is_some();
        self.devices.iter().filter(timed).cloned().collect()
    }

    /// Says where console input goes from now on.
    pub(super) fn input_to_hypercalls(&self, yes: bool) {
        self.input_to_hypercalls.store(yes, Ordering::Relaxed);
    }

    /// Brings console input to the guest, as much as it takes.
    pub(super) fn input_chore(&self, console: Arc<Console>) -> Chore {
        let uart = Arc::clone(&self.uart);
        let hypercalls = Arc::clone(&self.hypercalls);
        let to_hypercalls = Arc::clone(&self.input_to_hypercalls);
        // What the guest did not take the last time.
        let left = Mutex::new(Vec::new());
        Box::new(move || {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if left.is_empty() {
                    *left = console.take_input(INPUT_PIECE);
                }
                if left.is_empty() {
                    return;
                }
                let taken = if to_hypercalls.load(Ordering::Relaxed) {
                    lock(&hypercalls).push(&left)
                } else {
                    lock(&uart).push(&left)
                };
                left.drain(..taken);
                if !left.is_empty() {
                    return;
                }
            }
        })
    }

    /// The registers of the devices, as they would be saved.
    pub(super) fn inspect(&self) -> serde_json::Value {
        // One lock at a time: devices take the router's while they hold their own.
        let (pic, ioapic) = {
            let router = lock(&self.router);
            (router.pic.save(), router.ioapic.save())
        };
        serde_json::json!({
            "pic": pic.registers,
            "ioapic": ioapic.registers,
            "uart0": lock(&self.uart).save().registers,
            "pit": lock(&self.pit).save().registers,
            "rtc": lock(&self.rtc).save().registers,
            "i8042": lock(&self.keyboard).save().registers,
            "power-management": lock(&self.power.device).save().registers,
        })
    }

    /// Everything back to power-on.
    pub(super) fn reset(&self) {
        for device in &self.devices {
            lock(device).reset();
        }
        let mut router = lock(&self.router);
        router.pic.reset();
        router.ioapic.reset();
    }
}

/// Input brought to the guest at once.
const INPUT_PIECE: usize = 64;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guest RAM for devices that read strings out of it.
struct RamBytes(GuestMemoryMmap);

impl GuestBytes for RamBytes {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.0.read(into, GuestAddress(address)).unwrap_or(0)
    }
}

fn share(device: impl Device + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

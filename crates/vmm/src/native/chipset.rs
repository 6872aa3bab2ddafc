//! The legacy devices and how they are wired: which port, which interrupt, whose output goes where.

use super::adapters::{IoApicRegisters, PicPorts, Scratch, claim_ports};
use super::bus::{Bus, Overlap};
use super::lines::{ExternalInterrupt, IsaLine, MessageSink, SharedRouter};
use super::timers::{Chore, SharedDevice, Timers};
use crate::Console;
use chipset::{
    ByteSink, ClockFn, Device, IOAPIC_SIZE, InterruptRouter, IoApic, Line, Pic, Pit, PortDevice,
    Rtc, Uart,
};
use std::sync::{Arc, Mutex, PoisonError};

/// ISA interrupts of a PC (ICH9 5.8.3, table 5-15).
const TIMER_IRQ: u8 = 0;
const COM1_IRQ: u8 = 4;
const RTC_IRQ: u8 = 8;
/// Port that shows the BIOS's progress; guests write it to wait a microsecond.
const POST_PORT: u64 = 0x80;

pub(super) struct Chipset {
    pub(super) router: SharedRouter,
    pub(super) uart: Arc<Mutex<Uart>>,
    /// Everything that is reset and inspected, the router excepted.
    pub(super) devices: Vec<SharedDevice>,
}

/// What the guest prints on the serial port goes to the console; room for input wakes the thread
/// that brings it.
struct SerialSink {
    console: Arc<Console>,
    timers: Arc<Timers>,
}

impl ByteSink for SerialSink {
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

impl Chipset {
    /// Makes the devices and puts them on the buses.
    pub(super) fn new(
        ports: &Bus,
        memory: &Bus,
        messages: Arc<MessageSink>,
        external: Arc<ExternalInterrupt>,
        timers: &Arc<Timers>,
        console: &Arc<Console>,
    ) -> Result<Self, Overlap> {
        let router = InterruptRouter::new(Pic::new(external), IoApic::new(messages));
        let pic_ranges = router.pic.ranges().to_vec();
        let router = Arc::new(Mutex::new(router));
        for range in pic_ranges {
            let handler = PicPorts {
                router: Arc::clone(&router),
                first: range.first,
            };
            ports.claim(range.first.into(), range.count.into(), Arc::new(handler))?;
        }
        let registers = IoApicRegisters(Arc::clone(&router));
        memory.claim(layout::IOAPIC.0, IOAPIC_SIZE, Arc::new(registers))?;
        ports.claim(POST_PORT, 1, Arc::new(Scratch::default()))?;

        let line = |irq| -> Arc<dyn Line> {
            Arc::new(IsaLine {
                router: Arc::clone(&router),
                irq,
            })
        };
        let sink = SerialSink {
            console: Arc::clone(console),
            timers: Arc::clone(timers),
        };
        let uart = Uart::new("uart0", Uart::COM1, line(COM1_IRQ), Box::new(sink));
        let uart = Arc::new(Mutex::new(uart));
        let devices: Vec<SharedDevice> = vec![
            Arc::clone(&uart) as SharedDevice,
            share(Pit::new(line(TIMER_IRQ))),
            share(Rtc::new(Box::new(ClockFn(wall_clock)), line(RTC_IRQ))),
        ];
        for device in &devices {
            claim_ports(ports, device, timers)?;
        }
        Ok(Self {
            router,
            uart,
            devices,
        })
    }

    /// Those the timer thread looks at.
    pub(super) fn timed(&self) -> Vec<SharedDevice> {
        let timed = |device: &&SharedDevice| {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .timed()
                .is_some()
        };
        self.devices.iter().filter(timed).cloned().collect()
    }

    /// Brings console input to the serial port, as much as it takes.
    pub(super) fn input_chore(&self, console: Arc<Console>) -> Chore {
        let uart = Arc::clone(&self.uart);
        // What the port did not take the last time.
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
                let taken = uart
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(&left);
                left.drain(..taken);
                if !left.is_empty() {
                    return;
                }
            }
        })
    }

    /// Everything back to power-on.
    pub(super) fn reset(&self) {
        for device in &self.devices {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .reset();
        }
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.pic.reset();
        router.ioapic.reset();
    }
}

/// Input brought to the serial port at once.
const INPUT_PIECE: usize = 64;

fn share(device: impl Device + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

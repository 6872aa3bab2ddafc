//! The legacy devices of a PC: UART 16550, CMOS RTC, i8042, PIC 8259, PIT 8254, IOAPIC, ACPI PM
//! timer and power button, debug-exit port, debug console port.
//!
//! `no_std` with `alloc`, because the bare-metal monitor runs the same devices as the VMM. A device
//! here knows ports, lines and a clock, never a VMM, an engine or a thread: the caller brings the
//! bus, the locks and the time. Nothing a guest writes may panic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod acpi_pm;
mod debug_ports;
mod device;
mod event;
mod i8042;
mod ioapic;
mod pic;
mod pit;
mod router;
mod rtc;
mod state;
#[cfg(test)]
mod test_wires;
mod uart;

pub use acpi_pm::{
    ACPI_DISABLE, ACPI_ENABLE, AcpiPm, AcpiPmRegisters, GPE0, PM_BASE, PM_TIMER,
    PM_TIMER_FREQUENCY, PM1_CONTROL, PM1_EVENT, PmTimerWidth, RESET_CONTROL, RESET_VALUE,
    SLEEP_TYPE_SOFT_OFF, SMI_COMMAND,
};
pub use debug_ports::{DebugConsole, DebugExit, HypercallPorts, HypercallRegisters, PUTS_LIMIT};
pub use device::{
    ByteSink, Device, GuestBytes, Line, LineFn, MemoryDevice, PortDevice, PortRange, SinkFn, Timed,
};
pub use event::{EventFn, MachineEvent, MachineEvents};
pub use i8042::{I8042, I8042Registers};
pub use ioapic::{
    IOAPIC_BASE, IOAPIC_PINS, IOAPIC_SIZE, IoApic, IoApicRegisters, IoApicSink, PinRoutes,
};
pub use pic::{Pic, PicRegisters};
pub use pit::{Pit, PitRegisters};
pub use router::{FIRST_PCI_PIN, InterruptRouter, PCI_LINES, RouterRegisters};
pub use rtc::{ClockFn, RTC_CENTURY_CELL, Rtc, RtcRegisters, WallClock};
pub use state::{SaveRestore, Saved, StateError};
pub use uart::{Uart, UartRegisters};

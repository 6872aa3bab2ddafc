//! Where interrupt lines go on a PC: each ISA interrupt to one input of the 8259 pair and one pin of
//! the I/O APIC, each PCI interrupt to a pin of the I/O APIC and, where the chipset's PIRQ
//! registers say so, to an 8259 input. Owns both controllers, so that one lock of the caller's
//! covers a line change.

use crate::ioapic::IoApic;
use crate::pic::Pic;
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use serde::{Deserialize, Serialize};

/// PCI interrupt lines PIRQA to PIRQH of an ICH9.
pub const PCI_LINES: usize = 8;
/// The I/O APIC pin of PIRQA (ICH9 5.8.3, table 5-15).
pub const FIRST_PCI_PIN: u8 = 16;

/// ISA interrupts; the second is the cascade of the 8259 pair and not a line.
const ISA_LINES: u8 = 16;
const CASCADE: u8 = 2;
/// The I/O APIC pin of ISA interrupt 0 (ICH9 table 5-15; ACPI tables tell the guest).
const TIMER_PIN: u8 = 2;
/// 8259 inputs a PIRQ may go to (ICH9 13.1.17, bits 3:0).
const PIRQ_INPUTS: u16 = 0xdef8;

/// Saved levels and routes of an [`InterruptRouter`]; its controllers are saved on their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRegisters {
    /// One bit per ISA interrupt: asserted.
    isa: u16,
    /// One bit per PCI line: asserted.
    pci: u8,
    /// The 8259 input of each PCI line.
    pirq: [Option<u8>; PCI_LINES],
}

/// The fan-out of lines to the 8259 pair and the I/O APIC.
pub struct InterruptRouter {
    /// The 8259 pair.
    pub pic: Pic,
    /// The I/O APIC.
    pub ioapic: IoApic,
    registers: RouterRegisters,
}

impl InterruptRouter {
    /// A router with all lines low and no PIRQ routed to the 8259 pair.
    #[must_use]
    pub const fn new(pic: Pic, ioapic: IoApic) -> Self {
        let registers = RouterRegisters { isa: 0, pci: 0, pirq: [None; PCI_LINES] };
        Self { pic, ioapic, registers }
    }

    /// Drives ISA interrupt `irq`, 0 to 15.
    pub fn set_isa(&mut self, irq: u8, high: bool) {
        if irq >= ISA_LINES || irq == CASCADE {
            return;
        }
        let bit = 1 << irq;
        self.registers.isa =
            if high { self.registers.isa | bit } else { self.registers.isa & !bit };
        self.drive_pic(irq);
        self.ioapic.set_pin(if irq == 0 { TIMER_PIN } else { irq }, high);
    }

    /// Drives PCI line `line`, 0 (PIRQA) to 7 (PIRQH); the caller joins the functions that share it.
    pub fn set_pci(&mut self, line: u8, high: bool) {
        let Some(input) = self.registers.pirq.get(usize::from(line)).copied() else {
            return;
        };
        let bit = 1 << line;
        self.registers.pci =
            if high { self.registers.pci | bit } else { self.registers.pci & !bit };
        if let Some(input) = input {
            self.drive_pic(input);
        }
        self.ioapic.set_pin(FIRST_PCI_PIN + line, high);
    }

    /// The chipset's PIRQ register of `line` was written (ICH9 13.1.17, 13.1.18): the 8259 input it
    /// goes to, or `None`. Inputs the chipset reserves count as `None`.
    pub fn set_pirq_route(&mut self, line: u8, input: Option<u8>) {
        let Some(slot) = self.registers.pirq.get_mut(usize::from(line)) else {
            return;
        };
        let input = input.filter(|&input| input < ISA_LINES && PIRQ_INPUTS & 1 << input != 0);
        let before = core::mem::replace(slot, input);
        for changed in [before, input].into_iter().flatten() {
            self.drive_pic(changed);
        }
    }

    /// An 8259 input is high while its ISA line or any PCI line routed to it is.
    fn drive_pic(&mut self, input: u8) {
        let routed = self.registers.pirq.iter().enumerate();
        let shared = routed
            .filter(|(_, route)| **route == Some(input))
            .any(|(line, _)| self.registers.pci & 1 << line != 0);
        self.pic.set_input(input, shared || self.registers.isa & 1 << input != 0);
    }
}

impl SaveRestore for InterruptRouter {
    type Registers = RouterRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<RouterRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<RouterRegisters>) -> Result<(), StateError> {
        check_version("interrupt router", &saved, Self::VERSION)?;
        for input in saved.registers.pirq.into_iter().flatten() {
            check_field(
                input < ISA_LINES && PIRQ_INPUTS & 1 << input != 0,
                "interrupt router",
                "pirq",
                input,
                "3 to 7, 9 to 12, 14, 15",
            )?;
        }
        self.registers = saved.registers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::PortDevice;
    use crate::ioapic::{IoApicSink, PinRoutes};
    use crate::test_wires::TestLine;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Delivered(Mutex<Vec<u8>>);

    impl IoApicSink for Delivered {
        fn deliver(&self, _address: u64, data: u32) {
            self.0.lock().unwrap().push(data as u8);
        }

        fn routes_changed(&self, _routes: &PinRoutes) {}
    }

    fn bench() -> (InterruptRouter, Arc<Delivered>) {
        let sink = Arc::new(Delivered::default());
        let mut router = InterruptRouter::new(Pic::new(TestLine::new()), IoApic::new(sink.clone()));
        for (port, value) in [
            (0x20u16, 0x11u8),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x28),
            (0xa1, 2),
            (0xa1, 1),
        ] {
            router.pic.write(port, &[value]);
        }
        for pin in 0..24u8 {
            use crate::device::MemoryDevice;
            router.ioapic.write(0x00, &[0x10 + 2 * pin, 0, 0, 0]);
            router.ioapic.write(0x10, &[0x80 + pin, 0, 0, 0]);
        }
        (router, sink)
    }

    #[test]
    fn an_isa_interrupt_reaches_both_controllers_and_the_timer_pin_2() {
        let (mut router, sink) = bench();
        router.set_isa(0, true);
        router.set_isa(4, true);
        router.set_isa(2, true);
        router.set_isa(77, true);
        assert_eq!(*sink.0.lock().unwrap(), [0x82, 0x84]);
        assert_eq!(router.pic.acknowledge(), 0x20);
    }

    #[test]
    fn pci_lines_share_an_input_of_the_8259_and_have_pins_of_their_own() {
        let (mut router, sink) = bench();
        router.pic.write(0x4d1, &[0x08]);
        router.set_pirq_route(0, Some(11));
        router.set_pirq_route(3, Some(11));
        router.set_pirq_route(1, Some(8));
        router.set_pci(0, true);
        router.set_pci(3, true);
        assert_eq!(*sink.0.lock().unwrap(), [0x90, 0x93]);
        router.set_pci(0, false);
        assert!(router.pic.pending(), "line 3 still holds the input");
        router.set_pirq_route(3, None);
        assert!(!router.pic.pending());
        router.set_pci(1, true);
        assert!(!router.pic.pending(), "input 8 cannot be routed to");
    }
}

//! A Solo5 unikernel as a guest: its hypercalls go to a tender (crate `solo5`), and it has no other
//! devices. What the VMM's `--hvt` runs, runs here the same.

use crate::GuestRam;
use crate::Machine;
use crate::clock::Clock;
use crate::exits::Next;
use crate::guest::{Ending, Screen};
use crate::virtio::{Storage, SwitchPort};
use alloc::boxed::Box;
use alloc::format;
use chipset::ByteSink;
use solo5::abi::{PORT_BASE, PORT_COUNT};
use solo5::{
    AttachError, GuestMemory, Outcome, PlaceError, Tender, UnikernelError, Violation, Wait,
};
use units::GuestPhysical;

/// What a card tells the guest: the switch carries Ethernet frames.
const MTU: u16 = 1500;

/// Why a unikernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum HvtError {
    /// Its file.
    #[error(transparent)]
    File(#[from] UnikernelError),
    /// Its devices.
    #[error(transparent)]
    Devices(#[from] AttachError),
    /// Its memory or command line.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// More processors than it can use.
    #[error("{0} vcpus; a unikernel has 1")]
    Vcpus(usize),
    /// A file it has no use for.
    #[error("an initrd; a unikernel has none")]
    Initrd,
    /// Memory that is not one piece.
    #[error("{0} MiB of memory; a unikernel has at most 2816")]
    Memory(u64),
}

impl GuestMemory for GuestRam {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        GuestRam::holds(self, address.0, length)
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        GuestRam::read(self, address.0, into) == into.len()
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        GuestRam::write(self, address.0, bytes) == bytes.len()
    }
}

/// The guest's part of the console.
pub struct Text(pub Screen);

impl solo5::Console for Text {
    fn write(&mut self, bytes: &[u8]) {
        ByteSink::write(&mut self.0, bytes);
    }
}

/// The machine's time.
pub struct Time {
    /// Its counter.
    pub machine: &'static dyn Machine,
    /// What the counter means.
    pub clock: Clock,
    /// Nanoseconds since 1970 when the clock began.
    pub wall_clock: i128,
}

impl solo5::Clock for Time {
    fn wall(&self) -> u64 {
        u64::try_from(self.wall_clock + i128::from(self.now())).unwrap_or(0)
    }

    fn now(&self) -> u64 {
        self.clock.nanoseconds(self.machine.tsc())
    }
}

/// A disk.
pub struct Disk(pub Box<dyn Storage>);

impl solo5::Block for Disk {
    fn capacity(&self) -> u64 {
        self.0.size()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        self.0.read(offset, into)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        self.0.write(offset, bytes)
    }
}

/// A card at the switch.
pub struct Card(pub SwitchPort);

impl solo5::Net for Card {
    fn mac(&self) -> [u8; 6] {
        self.0.mac()
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn send(&mut self, frame: &[u8]) {
        self.0.send(frame);
    }

    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let frame = self.0.next()?;
        let count = frame.len().min(into.len());
        into[..count].copy_from_slice(&frame[..count]);
        Some(count)
    }

    fn ready(&mut self) -> bool {
        self.0.waits()
    }
}

/// A unikernel's tender.
pub struct Hvt {
    tender: Tender,
    ram: GuestRam,
    clock: Clock,
    /// The poll the guest stands in.
    wait: Option<Wait>,
}

impl Hvt {
    /// The tender of a guest with this memory.
    #[must_use]
    pub fn new(tender: Tender, ram: GuestRam, clock: Clock) -> Self {
        Self { tender, ram, clock, wait: None }
    }

    /// An OUT instruction; `data` has one item when it is a hypercall.
    pub fn write_port(&mut self, port: u16, data: &[u8]) -> Next {
        let number = port.checked_sub(PORT_BASE).filter(|n| *n < PORT_COUNT);
        let (Some(number), Ok(pointer)) = (number, <[u8; 4]>::try_from(data)) else {
            return Self::stray("port write", port.into());
        };
        let pointer = GuestPhysical(u32::from_le_bytes(pointer).into());
        match self.tender.call(&self.ram, number, pointer) {
            Ok(Outcome::Done) => Next::Run,
            Ok(Outcome::Wait(wait)) => {
                let until = wait.until;
                self.wait = Some(wait);
                Next::Sleep(self.clock.tsc(until))
            }
            Ok(Outcome::Halt { status }) => {
                let [status, ..] = status.to_le_bytes();
                Next::End(Ending::Exit(status))
            }
            Err(violation) => broken(violation),
        }
    }

    /// Any other access: none of them is the guest's to make.
    #[must_use]
    pub fn stray(what: &str, address: u64) -> Next {
        Next::End(Ending::Failed(format!(
            "a {what} at {address:#x}, where the hvt interface has nothing"
        )))
    }

    /// Before the guest runs: what else is to happen, when it is not to run yet.
    pub fn hold(&mut self) -> Option<Next> {
        let wait = self.wait.as_ref()?;
        match self.tender.poll(&self.ram, wait) {
            Ok(false) => Some(Next::Sleep(self.clock.tsc(wait.until))),
            Ok(true) => {
                self.wait = None;
                None
            }
            Err(violation) => {
                self.wait = None;
                Some(broken(violation))
            }
        }
    }
}

fn broken(violation: Violation) -> Next {
    Next::End(Ending::Failed(format!("{violation}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::tests::one_piece;
    use crate::test_core::{HERTZ, TestMachine, console, shown};
    use solo5::test_support::unikernel;
    use solo5::{Devices, Unikernel};
    use std::vec::Vec;

    const AT: u64 = 0x1000;

    fn hvt() -> Hvt {
        let console = console();
        let source = console.lock().add("u");
        let clock = Clock::new(0, HERTZ);
        let file = unikernel(2, &[], &[0xf4]);
        let manifest = Unikernel::read(&file).unwrap().manifest;
        let devices = Devices::attach(&manifest, Vec::new(), Vec::new()).unwrap();
        let time = Time { machine: TestMachine::leaked(), clock, wall_clock: 0 };
        let text = Text(Screen::new(console, source, || 0));
        let tender = Tender::new(devices, Box::new(text), Box::new(time));
        Hvt::new(tender, one_piece(0x10000), clock)
    }

    fn call(hvt: &mut Hvt, number: u16, fields: &[u64]) -> Next {
        for (index, field) in fields.iter().enumerate() {
            let at = AT + index as u64 * 8;
            assert_eq!(hvt.ram.write(at, &field.to_le_bytes()), 8);
        }
        hvt.write_port(PORT_BASE + number, &(AT as u32).to_le_bytes())
    }

    #[test]
    fn a_unikernel_prints_and_halts_with_its_status() {
        let mut hvt = hvt();
        hvt.ram.write(0x2000, b"hello\n");
        assert_eq!(call(&mut hvt, 2, &[0x2000, 6]), Next::Run);
        assert_eq!(shown(), "u| hello\r\n");
        assert_eq!(call(&mut hvt, 8, &[0, 3]), Next::End(Ending::Exit(3)));
    }

    #[test]
    fn a_poll_sleeps_until_its_time() {
        let mut hvt = hvt();
        let Next::Sleep(until) = call(&mut hvt, 3, &[1_000_000]) else {
            panic!("it does not sleep");
        };
        assert!(until >= 1_000_000, "{until}");
        let mut held = 0;
        while let Some(next) = hvt.hold() {
            assert_eq!(next, Next::Sleep(until));
            held += 1;
        }
        assert!(held > 100, "{held}");
        assert_eq!(hvt.hold(), None);
    }

    #[test]
    fn what_the_interface_does_not_have_ends_the_guest() {
        let mut hvt = hvt();
        for (port, data) in [(0x509, &[0u8; 4][..]), (0x502, &[0; 8]), (0xe9, b"x")] {
            let Next::End(Ending::Failed(why)) = hvt.write_port(port, data) else {
                panic!("it goes on after port {port:#x}");
            };
            assert!(why.contains("hvt interface"), "{why}");
        }
        let Next::End(Ending::Failed(why)) = call(&mut hvt, 2, &[0x10000, 1]) else {
            panic!("it goes on");
        };
        assert!(why.contains("not all in the guest's memory"), "{why}");
    }
}

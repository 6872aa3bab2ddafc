//! Reading an exit out of the run page. Other processes could write the page: each field is read once.

use crate::{Exit, FailureFacts};
use hypervisor_abi::{EXIT_DATA, ExitReason, FailureKind, Fault, Outside, RunPage, Status, answer};
use std::ptr::NonNull;

/// Bytes of the longest instruction (SDM 2A 2.3.11).
const LONGEST_INSTRUCTION: usize = 15;

/// What ended a run, as far as this engine deals with it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Something for the caller: [`decode`] says what.
    Exit,
    /// The same, and a write: perhaps a doorbell.
    Write,
    /// A physical interrupt, or a kick.
    Interrupted,
    /// The guest's timer is due before the promised interrupt.
    Deadline,
    /// HLT.
    Halt,
    /// It waits for a start-up IPI.
    WaitForSipi,
    /// Others of its partition are to be run.
    Wake,
    /// A call of the guest's.
    Call,
}

/// A run page that stays mapped, and is one processor's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page(NonNull<RunPage>);

macro_rules! read {
    ($page:expr, $($field:tt)+) => {
        // SAFETY: the page is mapped (`Page::new`) and the field lies in it.
        unsafe { (&raw const (*$page.0.as_ptr()).$($field)+).read_volatile() }
    };
}

macro_rules! write {
    ($page:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading.
        unsafe { (&raw mut (*$page.0.as_ptr()).$($field)+).write_volatile($value) }
    };
}

// SAFETY: memory any thread may use, one at a time.
unsafe impl Send for Page {}

impl Page {
    /// # Safety
    /// The page is mapped as long as the value and its copies are used, by one thread at a time.
    pub(super) unsafe fn new(page: NonNull<RunPage>) -> Self {
        Self(page)
    }

    /// Orders for the next run: requests, and a vector with one of them.
    pub(super) fn order(self, request: u32, vector: u8) {
        write!(self, vector.into(), external_vector);
        write!(self, request, request);
    }

    /// The interrupt that ends a run in time for the guest's timer.
    pub(super) fn promise(self, armed: u64, armed_on: u32) {
        write!(self, armed, armed);
        write!(self, armed_on, armed_on);
    }

    /// When the guest's timer is due.
    pub(super) fn deadline(self) -> u64 {
        read!(self, deadline)
    }

    /// Whether an external interrupt would have been taken at the exit.
    pub(super) fn accepts_external(self) -> bool {
        read!(self, accepts_external) != 0
    }

    /// The vCPUs that an exit [`Happened::Wake`] names.
    pub(super) fn woken(self) -> u64 {
        read!(self, exit.arguments[0])
    }

    /// Nobody here takes calls of guests.
    pub(super) fn refuse_call(self) {
        let mut results = [0; 3];
        results[answer::STATUS] = Status::fault(Fault::NotSupported).0;
        write!(self, results, exit.results);
    }

    /// Why the run ended.
    pub(super) fn happened(self) -> Happened {
        match ExitReason::from_number(read!(self, exit.reason)) {
            Some(ExitReason::Interrupted) => Happened::Interrupted,
            Some(ExitReason::Deadline) => Happened::Deadline,
            Some(ExitReason::Halt) => Happened::Halt,
            Some(ExitReason::WaitForSipi) => Happened::WaitForSipi,
            Some(ExitReason::Wake) => Happened::Wake,
            Some(ExitReason::Hypercall) => Happened::Call,
            Some(ExitReason::PortWrite | ExitReason::MemoryWrite) => Happened::Write,
            _ => Happened::Exit,
        }
    }

    /// The exit for the caller, whose the page is for `'a`.
    pub(super) fn decode<'a>(self) -> Exit<'a> {
        let reason = read!(self, exit.reason);
        let (address, detail) = (read!(self, exit.address), read!(self, exit.detail));
        let width = (read!(self, exit.width) as usize).clamp(1, 8);
        let count = match read!(self, exit.count) {
            0 | 1 => 1,
            more => (more as usize).min(EXIT_DATA / width),
        };
        // SAFETY: `width * count` bytes of the page's own data; nobody else in this process has a
        // reference to them while the caller's processor is borrowed. As with any shared memory of
        // trusted processes, that they do not write it is theirs to keep.
        let data = unsafe {
            let start = (&raw mut (*self.0.as_ptr()).exit.data).cast::<u8>();
            std::slice::from_raw_parts_mut(start, width * count)
        };
        match ExitReason::from_number(reason) {
            Some(ExitReason::PortRead) => {
                Exit::PortRead { port: address as u16, width: width as u8, data }
            }
            Some(ExitReason::PortWrite) => {
                Exit::PortWrite { port: address as u16, width: width as u8, data }
            }
            Some(ExitReason::MemoryRead) => Exit::MemoryRead { address, data },
            Some(ExitReason::MemoryWrite) => Exit::MemoryWrite { address, data },
            Some(ExitReason::EndOfInterrupt) => Exit::EndOfInterrupt { vector: detail as u8 },
            Some(ExitReason::InterruptWindow) => Exit::InterruptWindow,
            Some(ExitReason::Shutdown) => Exit::Shutdown,
            Some(ExitReason::Failure) => Exit::Failure(self.failure(detail)),
            _ => Exit::Failure(unknown(reason)),
        }
    }

    #[cold]
    fn failure(self, detail: u32) -> FailureFacts {
        let arguments = read!(self, exit.arguments);
        let [first, second, ..] = arguments;
        let facts = |what: String, codes: &[u64]| FailureFacts { what, codes: codes.to_vec() };
        match FailureKind::from_number(detail) {
            Some(FailureKind::Processor) => {
                let length = (read!(self, exit.count) as usize).min(EXIT_DATA);
                let data = read!(self, exit.data);
                let text = String::from_utf8_lossy(&data[..length]);
                facts(format!("the processor cannot go on: {text}"), &arguments[..4])
            }
            Some(FailureKind::OutsideMemory) => {
                let what = match Outside::from_number(second) {
                    Some(Outside::Code) => "the guest's code",
                    Some(Outside::PageTables) => "the guest's page tables",
                    Some(Outside::Delivery) => "the stack or table of an exception or interrupt",
                    None => "something the guest needs",
                };
                facts(format!("{what} outside its memory"), &[first])
            }
            Some(FailureKind::Instruction) => {
                let bytes = [first, second].map(u64::to_le_bytes);
                let bytes = &bytes.as_flattened()[..LONGEST_INSTRUCTION];
                facts(
                    format!(
                        "an instruction that the core does not carry out, on memory that is not \
                         there: {bytes:02x?}"
                    ),
                    &[],
                )
            }
            None => facts("a failure the core does not explain".to_owned(), &arguments[..4]),
        }
    }
}

#[cold]
fn unknown(reason: u32) -> FailureFacts {
    FailureFacts {
        what: "an exit of the core's that this engine does not know (reason)".to_owned(),
        codes: vec![reason.into()],
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_core::empty_page;
    use super::*;

    fn page(fill: impl FnOnce(&mut RunPage)) -> Page {
        let page = Box::leak(Box::new(empty_page()));
        fill(page);
        // SAFETY: leaked.
        unsafe { Page::new(NonNull::from(page)) }
    }

    #[test]
    fn an_access_comes_with_its_data_and_takes_an_answer() {
        let at = page(|page| {
            page.exit.reason = ExitReason::PortRead as u32;
            (page.exit.address, page.exit.width, page.exit.count) = (0x60, 2, 3);
        });
        let Exit::PortRead { port: 0x60, width: 2, data } = at.decode() else { panic!() };
        assert_eq!(data.len(), 6);
        data[5] = 7;
        assert_eq!(read!(at, exit.data)[5], 7);
        let at = page(|page| {
            page.exit.reason = ExitReason::MemoryWrite as u32;
            (page.exit.address, page.exit.width, page.exit.count) = (0xfec0_0010, 4, 1);
            page.exit.data[..4].copy_from_slice(&[1, 2, 3, 4]);
        });
        let Exit::MemoryWrite { address: 0xfec0_0010, data: [1, 2, 3, 4] } = at.decode() else {
            panic!()
        };
    }

    #[test]
    fn impossible_lengths_stay_in_the_page() {
        for (width, count) in [(0, 0), (u32::MAX, u32::MAX), (8, u32::MAX), (3, 400)] {
            let at = page(|page| {
                page.exit.reason = ExitReason::MemoryRead as u32;
                (page.exit.width, page.exit.count) = (width, count);
            });
            let Exit::MemoryRead { data, .. } = at.decode() else { panic!() };
            assert!((1..=EXIT_DATA).contains(&data.len()), "{}", data.len());
        }
    }

    #[test]
    fn a_failure_says_what_and_where() {
        let failure = |kind: u32, arguments: [u64; 6], text: &str| {
            let at = page(|page| {
                page.exit.reason = ExitReason::Failure as u32;
                (page.exit.detail, page.exit.arguments) = (kind, arguments);
                page.exit.count = text.len() as u32;
                page.exit.data[..text.len()].copy_from_slice(text.as_bytes());
            });
            match at.decode() {
                Exit::Failure(facts) => facts,
                other => panic!("{other:?}"),
            }
        };
        let facts = failure(2, [0xdead_b000, 1, 0, 0, 0, 0], "");
        assert!(facts.what.contains("code outside"), "{facts:?}");
        assert_eq!(facts.codes, [0xdead_b000]);
        let facts = failure(1, [7, 8, 9, 10, 0, 0], "VMRUN said no");
        assert!(facts.what.ends_with("VMRUN said no"), "{facts:?}");
        assert_eq!(facts.codes, [7, 8, 9, 10]);
        assert!(failure(3, [0x0f, 0, 0, 0, 0, 0], "").what.contains("[0f, 00"));
        assert!(failure(77, [1, 2, 3, 4, 5, 6], "").what.contains("does not explain"));
        let at = page(|page| page.exit.reason = 99);
        assert!(matches!(at.decode(), Exit::Failure(facts) if facts.codes == [99]));
    }
}

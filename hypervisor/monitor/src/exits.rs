//! What the monitor answers to each exit of a vCPU.

use crate::guest::{Ending, Guest};
use crate::hvt::Hvt;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;
use hypervisor_abi::{
    EXIT_DATA, ExitReason, ExitRecord, FailureKind, Fault, GuestCall, Outside, RunPage, Status,
    answer,
};

/// Bytes of the longest instruction (SDM 2A 2.3.11).
const LONGEST_INSTRUCTION: usize = 15;
/// First argument of [`GuestCall::Ipc`]: how many guests have not ended? The only message the monitor
/// answers.
pub const IPC_RUNNING: u64 = 0;

/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// What follows an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run it again.
    Run,
    /// Run it again when something woke it, or at this counter value.
    Sleep(u64),
    /// Look around: a physical interrupt came, or others were woken.
    Look,
    /// The guest is at its end.
    End(Ending),
}

/// The items of an access, checked: the core is trusted, but a slip of it shall not panic the monitor.
fn items(exit: &mut ExitRecord) -> (usize, &mut [u8]) {
    let width = (exit.width as usize).clamp(1, 8);
    let count = (exit.count as usize).clamp(1, EXIT_DATA / width);
    (width, &mut exit.data[..width * count])
}

/// Answers the exit in `page` of vCPU `index` at counter value `tsc`.
pub fn answer(guest: &Guest, index: usize, page: &mut RunPage, tsc: u64) -> Next {
    let deadline = page.deadline;
    let exit = &mut page.exit;
    let Some(reason) = ExitReason::from_number(exit.reason) else {
        return failed(format!("vcpu {index}: unknown exit {}", exit.reason));
    };
    guest.count(reason);
    match reason {
        ExitReason::PortRead | ExitReason::PortWrite => at_port(guest, reason, exit, tsc),
        ExitReason::MemoryRead | ExitReason::MemoryWrite => at_memory(guest, reason, exit),
        ExitReason::EndOfInterrupt => {
            guest.board.lock().end_of_interrupt(exit.detail as u8);
            Next::Run
        }
        ExitReason::Halt if page.rflags & INTERRUPT_FLAG != 0 => Next::Sleep(deadline),
        // Only another vCPU ends this, and that comes with a wake-up.
        ExitReason::Halt | ExitReason::WaitForSipi => {
            if guest.stands_still(index) {
                Next::End(Ending::Halted)
            } else {
                Next::Sleep(u64::MAX)
            }
        }
        ExitReason::InterruptWindow => Next::Run,
        ExitReason::Deadline | ExitReason::Interrupted => Next::Look,
        ExitReason::Wake => {
            guest.moves(exit.arguments[0]);
            guest.wakes.wake(exit.arguments[0]);
            Next::Look
        }
        ExitReason::Hypercall => {
            call(guest, exit);
            Next::Run
        }
        ExitReason::Shutdown => Next::End(Ending::Shutdown),
        ExitReason::Failure => {
            let rip = page.rip;
            failed(format!("vcpu {index} at {rip:#x}: {}", why(&page.exit)))
        }
    }
}

/// Clipboard and display have nobody to talk to here.
fn call(guest: &Guest, exit: &mut ExitRecord) {
    exit.results = [0; 3];
    let [number, message, ..] = exit.arguments;
    if (number, message) == (GuestCall::Ipc.number(), IPC_RUNNING) {
        exit.results[answer::FIRST] = guest.running.load(Ordering::Acquire);
    } else {
        exit.results[answer::STATUS] = Status::fault(Fault::NotSupported).0;
    }
}

/// Why a vCPU cannot go on, in words.
fn why(exit: &ExitRecord) -> String {
    let [a, b, c, d, ..] = exit.arguments;
    match FailureKind::from_number(exit.detail) {
        Some(FailureKind::Processor) => {
            let text = exit.data.get(..exit.count as usize).unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            format!("{text} ({a:#x}, {b:#x}, {c:#x}, {d:#x})")
        }
        Some(FailureKind::OutsideMemory) => {
            let what = match Outside::from_number(b) {
                Some(Outside::Code) => "code",
                Some(Outside::PageTables) => "page tables",
                Some(Outside::Delivery) => "an exception's or interrupt's stack or table",
                None => "something",
            };
            format!("{what} at guest-physical {a:#x}, outside its memory")
        }
        Some(FailureKind::Instruction) => {
            let bytes = [a, b].map(u64::to_le_bytes);
            let bytes = &bytes.as_flattened()[..LONGEST_INSTRUCTION];
            format!("an instruction the core does not emulate accesses no memory: {bytes:02x?}")
        }
        None => format!("failure {} ({a:#x}, {b:#x}, {c:#x}, {d:#x})", exit.detail),
    }
}

fn failed(why: String) -> Next {
    Next::End(Ending::Failed(why))
}

fn at_port(guest: &Guest, reason: ExitReason, exit: &mut ExitRecord, tsc: u64) -> Next {
    let port = exit.address as u16;
    let (width, data) = items(exit);
    if let Some(hvt) = &guest.hvt {
        return match reason {
            ExitReason::PortWrite => hvt.lock().write_port(port, data),
            _ => Hvt::stray("port read", port.into()),
        };
    }
    let mut board = guest.board.lock();
    let mut timed = false;
    for item in data.chunks_exact_mut(width) {
        timed |= if reason == ExitReason::PortRead {
            board.read_port(port, item, tsc)
        } else {
            board.write_port(port, item, tsc)
        };
    }
    let mut sooner = false;
    if timed {
        // Under the board's lock: else an older answer could overwrite a newer one.
        let due = board.deadline();
        sooner = due < guest.due.swap(due, Ordering::AcqRel);
    }
    drop(board);
    if let Some(event) = guest.happenings.take() {
        return Next::End(event.into());
    }
    if sooner {
        // Whoever keeps the guest's time has to arm a timer for this.
        guest.wakes.interrupt(guest.wakes.processors()[0]);
        return Next::Look;
    }
    Next::Run
}

fn at_memory(guest: &Guest, reason: ExitReason, exit: &mut ExitRecord) -> Next {
    let mut address = exit.address;
    if guest.hvt.is_some() {
        return Hvt::stray("memory access", address);
    }
    let (width, data) = items(exit);
    let mut board = guest.board.lock();
    let mut others = false;
    for item in data.chunks_exact_mut(width) {
        if reason == ExitReason::MemoryRead {
            board.read_memory(address, item);
        } else {
            others |= board.write_memory(address, item);
        }
        address = address.wrapping_add(width as u64);
    }
    // No device in memory ends the machine.
    if others { Next::Look } else { Next::Run }
}

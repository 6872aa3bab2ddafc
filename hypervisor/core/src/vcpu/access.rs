//! Ports and memory that root answers: an access leaves with an exit record, and the next run ends the
//! instruction with root's answer.

use super::answer;
use super::run::{Next, Run};
use crate::decode::{Execution, Mode, Operation, Repeat, Step, StringPointers, Width};
use crate::exit::{Event, Exit, GENERAL_PROTECTION, INVALID_OPCODE, MemoryFault, PortAccess};
use crate::instruction::{Outcome, Trouble, USER, allows};
use crate::registers::{RAX, RDI, RSI};
use crate::second_level::{self, FaultCause};
use crate::walk::Access;
use hypervisor_abi::{ExitReason, FailureKind, Outside, SegmentName, answer as place};
use units::{GuestPhysical, PAGE_SIZE};

/// An instruction that waits for root's answer.
pub enum Progress {
    /// None.
    None,
    /// OUT and the like: nothing to fetch.
    Written,
    /// IN: so many bytes go to RAX.
    PortRead(u8),
    /// INS: to this linear address go so many bytes.
    StringRead(u64, u8),
    /// An instruction on a device's memory.
    Memory(Execution),
    /// A guest's call.
    Call,
}

/// Ends what the last run left half done.
pub(super) fn resume(run: &mut Run<'_>) -> Next {
    let progress = core::mem::replace(&mut run.held.progress, Progress::None);
    let page = &run.held.page;
    match progress {
        Progress::None | Progress::Written => {}
        Progress::PortRead(width) => {
            let value = page.data(width);
            let rax = &mut run.held.context.general_mut()[RAX];
            *rax = match width {
                1 => *rax & !0xff | value,
                2 => *rax & !0xffff | value,
                // A 32-bit result clears the upper half (SDM 1 3.4.1.1).
                _ => value,
            };
        }
        Progress::StringRead(linear, width) => {
            let bytes = page.data(width).to_le_bytes();
            let written = run.write(linear, &bytes[..usize::from(width)]);
            // The page was there when the access was made; another vCPU may have taken it away since.
            return settle(run, written.map(|()| Next::Enter));
        }
        Progress::Memory(mut execution) => {
            execution.advance(page.data(8));
            let done = proceed(run, execution, None);
            return settle(run, done);
        }
        Progress::Call => {
            let results = page.results();
            let general = run.held.context.general_mut();
            general[RAX] = results[place::STATUS];
            general[RDI] = results[place::FIRST];
            general[RSI] = results[place::SECOND];
        }
    }
    Next::Enter
}

/// IN, OUT, INS, OUTS.
pub(super) fn port(run: &mut Run<'_>, port: PortAccess) -> Next {
    if port.string {
        let done = string(run, port);
        return settle(run, done);
    }
    answer::skip(run, Exit::Port(port));
    let value = run.held.context.general()[RAX];
    ask_port(run, port, Progress::PortRead(port.width), value)
}

/// Root answers an access to a port: `waiting` is for what it reads, or `value` is written.
#[inline(always)]
fn ask_port(run: &mut Run<'_>, port: PortAccess, waiting: Progress, value: u64) -> Next {
    let address = u64::from(port.port);
    if port.input {
        run.held.progress = waiting;
        run.held.page.access(address, port.width, None);
        Next::Return(ExitReason::PortRead)
    } else {
        run.held.progress = Progress::Written;
        run.held.page.access(address, port.width, Some(value));
        Next::Return(ExitReason::PortWrite)
    }
}

/// One item of a string instruction; the guest comes back for the next.
fn string(run: &mut Run<'_>, port: PortAccess) -> Outcome<Next> {
    let (decoded, space) = run.decode()?;
    let length = u64::from(decoded.length);
    let mut registers = run.held.context.registers();
    let pointers = StringPointers {
        bytes: u64::from(port.width),
        address_size: decoded.address_size,
        source: !port.input,
        destination: port.input,
        repeat: port.repeat.then_some(Repeat::Equal),
    };
    if pointers.is_done(&registers) {
        run.advance(length);
        return Ok(Next::Enter);
    }
    let (pointer, segment) = if port.input {
        (RDI, SegmentName::Es)
    } else {
        (RSI, decoded.memory.map_or(SegmentName::Ds, |memory| memory.segment))
    };
    let offset = registers.general[pointer] & decoded.address_size.mask();
    // The exit came before the processor's own checks.
    let limits = run.held.context.segment(segment);
    let allowed = space.mode == Mode::Bits64 || allows(&limits, offset, port.width, port.input);
    let linear = space.linear(segment, offset).filter(|_| allowed);
    let linear = linear.ok_or(Trouble::Fault(GENERAL_PROTECTION))?;
    let mut data = [0; 8];
    let bytes = &mut data[..usize::from(port.width)];
    // The guest's memory is touched before the registers move: a page fault restarts the item.
    if port.input {
        run.check_write(linear, bytes.len())?;
    } else {
        run.read(linear, bytes, Access::Read)?;
    }
    let again = pointers.advance(&mut registers);
    *run.held.context.general_mut() = registers.general;
    if !again {
        run.advance(length);
    }
    let waiting = Progress::StringRead(linear, port.width);
    Ok(ask_port(run, port, waiting, u64::from_le_bytes(data)))
}

/// An access the tables did not allow: the local APIC's page, the dirty log, or a device of root's.
pub(super) fn memory(run: &mut Run<'_>, fault: MemoryFault) -> Next {
    let wanted = second_level::Access { write: fault.write, execute: fault.fetch };
    if run.partition.explain(fault.address, wanted) == FaultCause::Stale {
        run.held.context.flush_tlb(&run.cpu.vendor);
        return Next::Enter;
    }
    let done = outside_memory(run, fault);
    settle(run, done)
}

fn outside_memory(run: &mut Run<'_>, fault: MemoryFault) -> Outcome<Next> {
    if fault.fetch && run.held.context.cpl() == USER {
        // Where nothing is, ones are read, which are no instruction.
        return Err(Trouble::Fault(INVALID_OPCODE));
    }
    // Code, page tables or the stack of an event outside memory: nothing sensible can follow. In the
    // last case the instruction at RIP has made no access.
    let hopeless = [
        (fault.fetch, Outside::Code),
        (fault.page_walk, Outside::PageTables),
        (run.held.context.event_waits(), Outside::Delivery),
    ];
    if let Some((_, what)) = hopeless.into_iter().find(|(is, _)| *is) {
        return Ok(run.fail(FailureKind::OutsideMemory, [fault.address.0, what as u64, 0, 0]));
    }
    let (decoded, space) = run.decode()?;
    let execution = Execution::begin(&decoded, &run.held.context.registers(), &space);
    let execution = execution.ok_or(Trouble::Fault(GENERAL_PROTECTION))?;
    // These make one access, for which the processor has walked the guest's tables.
    let single = decoded.string.is_none()
        && matches!(decoded.operation, Operation::Move | Operation::MoveSignExtend);
    proceed(run, execution, single.then_some(fault.address))
}

/// Carries out accesses that need no root, until one does or the instruction is done. `known` is an
/// address on the page to which the first one leads.
fn proceed(
    run: &mut Run<'_>,
    mut execution: Execution,
    mut known: Option<GuestPhysical>,
) -> Outcome<Next> {
    let mut registers = run.held.context.registers();
    let mut next = Next::Enter;
    while let Some(step) = execution.step(&registers) {
        let Step { address: linear, width, write } = step;
        let (access, reason) = match write {
            Some(_) => (Access::Write, ExitReason::MemoryWrite),
            None => (Access::Read, ExitReason::MemoryRead),
        };
        let bytes = width.bytes();
        // An access over the end of a page is two of the bus's; devices have none such.
        let crosses = linear % PAGE_SIZE + bytes > PAGE_SIZE;
        let physical = match known.take().filter(|_| !crosses) {
            Some(page) => GuestPhysical(page.0 - page.0 % PAGE_SIZE + linear % PAGE_SIZE),
            None => run.translate(linear, access)?,
        };
        let mut data = write.unwrap_or(0).to_le_bytes();
        let data_bytes = &mut data[..bytes as usize];
        if let Some((value, effect)) = access_apic(run, physical, step) {
            data = value.to_le_bytes();
            // A write is an instruction's last access: root hears of its effect after the instruction.
            next = effect;
        } else if is_roots(run, physical, write.is_some()) {
            if crosses {
                return Err(Trouble::Fault(GENERAL_PROTECTION));
            }
            run.held.progress = Progress::Memory(execution);
            run.held.page.access(physical.0, bytes as u8, write);
            return Ok(Next::Return(reason));
        } else if write.is_some() {
            run.write(linear, data_bytes)?;
        } else {
            run.read(linear, data_bytes, access)?;
        }
        execution.advance(u64::from_le_bytes(data));
    }
    execution.complete(&mut registers);
    run.held.context.set_registers(&registers);
    run.advance(0);
    Ok(next)
}

/// Whether root answers an access: no memory is there, or what is there may only be read.
fn is_roots(run: &Run<'_>, at: GuestPhysical, write: bool) -> bool {
    run.partition.translate(at).is_none_or(|found| write && !found.access.write)
}

/// An access to the local APIC's page, if `at` is there: what is read, and what a write does.
fn access_apic(run: &mut Run<'_>, at: GuestPhysical, step: Step) -> Option<(u64, Next)> {
    let offset = at.0.wrapping_sub(run.held.apic.window()?.0);
    if offset >= PAGE_SIZE {
        return None;
    }
    let (offset, now) = (offset as u32, run.now());
    Some(match step.write {
        None => (u64::from(run.held.apic.read_page(offset, now)), Next::Enter),
        // Only whole registers can be written (SDM 3A 11.4.1).
        Some(_) if step.width != Width::Dword => (0, Next::Enter),
        Some(value) => {
            let effect = run.held.apic.write_page(offset, value as u32, now);
            // Here its ids can change; through x2APIC registers they cannot.
            run.held.publish();
            (0, run.carry_on(effect))
        }
    })
}

/// What the guest gets for an instruction that could not be fetched, decoded or carried out.
fn settle(run: &mut Run<'_>, done: Outcome<Next>) -> Next {
    let event = match done {
        Ok(next) => return next,
        Err(Trouble::Fault(event)) => event,
        Err(Trouble::PageFault(address, error)) => {
            run.held.context.set_cr2(address);
            Event::Exception { vector: 14, error: Some(error) }
        }
        // A program must not end its whole machine.
        Err(Trouble::Unsupported(_)) if run.held.context.cpl() == USER => INVALID_OPCODE,
        Err(Trouble::Unsupported(bytes)) => {
            return run.fail(FailureKind::Instruction, [bytes as u64, (bytes >> 64) as u64, 0, 0]);
        }
    };
    run.held.context.inject(event);
    Next::Enter
}

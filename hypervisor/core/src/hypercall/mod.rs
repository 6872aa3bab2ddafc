//! Root's calls. Every argument is checked here or by the module that owns what it names, before
//! anything is done; a call that fails has changed nothing.
//!
//! `unsafe` here: reading and writing structures in the transfer area.
#![allow(unsafe_code)]

mod transfer;

use crate::apic::Message;
use crate::cpuid;
use crate::machine::machine;
use crate::partition::{self, PartitionRef};
use crate::processor::{self, Cpu};
use crate::validate::RangeError;
use crate::vcpu::{self, Context, Extended, Vcpu, signal};
use crate::{integrity, log, validate};
use hypervisor_abi::{
    CpuidRow, Fault, MAX_CPUID_ROWS, RootCall, StatisticsRecord, Status, VERSION, VcpuState,
};
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

const RAX: usize = 0;
const RDI: usize = 7;

/// Arguments 1 to 5 in RDI, RSI, RDX, R10, RBX; the key in R8 and R9.
const ARGUMENTS: [usize; 5] = [7, 6, 2, 10, 3];
const KEY: [usize; 2] = [8, 9];

/// What a call gives back: RDI on success.
type Answer = Result<Option<u64>, Status>;

/// Answers a call of root's on this processor.
pub fn of_root(context: &mut Context, cpu: &mut Cpu, extended: &mut Extended) {
    let general = context.general_mut();
    let answer = if KEY.map(|register| general[register]) == machine().key {
        let arguments = ARGUMENTS.map(|register| general[register]);
        partition::clock_goes_on();
        call(general[RAX], arguments, cpu, extended)
    } else {
        Err(Status::fault(Fault::Denied))
    };
    if let Ok(Some(result)) = answer {
        general[RDI] = result;
    }
    general[RAX] = answer.err().unwrap_or(Status::OK).0;
}

#[inline]
fn call(number: u64, [a, b, c, d, e]: [u64; 5], cpu: &mut Cpu, extended: &mut Extended) -> Answer {
    match RootCall::from_number(number).ok_or(Status::fault(Fault::UnknownCall))? {
        RootCall::VcpuRun => {
            let partition = partition_of(a)?;
            let vcpu = vcpu_of(&partition, b)?;
            let ran = vcpu::run(&partition, vcpu, cpu, extended);
            ran.map(|_| None).ok_or(Status::argument(Fault::Busy, 2))
        }
        RootCall::Inject => {
            let partition = partition_of(a)?;
            let data = u32::try_from(c).map_err(|_| Status::argument(Fault::BadValue, 3))?;
            let message =
                Message::signalled(b, data).ok_or(Status::argument(Fault::BadValue, 2))?;
            Ok(Some(partition.route(message, None)))
        }
        RootCall::Version => Ok(Some(u64::from(VERSION))),
        RootCall::Features => Ok(Some(machine().features)),
        RootCall::PartitionCreate => partition::create(a).map(Some),
        RootCall::PartitionDestroy => destroy(a, b, cpu),
        RootCall::PartitionReset => partition_of(a)?.reset().map(|()| None),
        RootCall::PartitionOwner => Ok(Some(partition_of(a)?.owner)),
        RootCall::MemoryMap => map(a, b, c, d, e),
        RootCall::MemoryUnmap => {
            let partition = partition_of(a)?;
            let (guest, bytes) = guest_range(b, c, 3)?;
            partition.unmap(&mut cpu.window, guest, bytes).map(|()| None)
        }
        call @ (RootCall::MemoryProtect | RootCall::MemoryShare) => {
            let partition = partition_of(a)?;
            let (guest, bytes) = guest_range(b, c, 3)?;
            let allowed = call == RootCall::MemoryShare;
            partition.set_root_access(guest, bytes, allowed).map(|()| None)
        }
        RootCall::MemoryDirtyLog => dirty_log(a, b, c, d),
        RootCall::MemoryReserve => reserve(a, b, c),
        RootCall::MemoryClear => {
            let left = partition_of(a)?.clear(&mut cpu.window, HostPhysical(b));
            left.map(|left| Some(left.0)).map_err(|fault| Status::argument(fault, 2))
        }
        RootCall::MemoryRelease => {
            let done = partition_of(a)?.release(HostPhysical(b));
            done.map(|()| None).map_err(|fault| Status::argument(fault, 2))
        }
        RootCall::MemoryUnreserved => {
            let (all, largest) = partition::unreserved();
            match a {
                0 => Ok(Some(all.0)),
                1 => Ok(Some(largest.0)),
                _ => Err(Status::argument(Fault::BadValue, 1)),
            }
        }
        RootCall::VcpuCreate => partition_of(a)?.create_vcpu(&cpu.vendor, b).map(Some),
        RootCall::VcpuGetState => {
            let partition = partition_of(a)?;
            transfer::write(c, 3, &held(&partition, b)?.state()).map(|()| None)
        }
        RootCall::VcpuSetState => set_state(a, b, c, cpu),
        RootCall::VcpuSetCpuid => set_cpuid(a, b, c, d),
        RootCall::VcpuKick => {
            let partition = partition_of(a)?;
            let vcpu = vcpu_of(&partition, b)?;
            vcpu.inbox.signal(signal::KICK);
            let _ = vcpu.prod();
            Ok(None)
        }
        RootCall::VcpuReset => {
            let partition = partition_of(a)?;
            held(&partition, b)?.reset();
            Ok(None)
        }
        RootCall::InjectNmi => {
            let partition = partition_of(a)?;
            let vcpu = vcpu_of(&partition, b)?;
            vcpu.inbox.signal(signal::NMI);
            Ok(Some(u64::from(vcpu.prod()) << vcpu.index))
        }
        RootCall::CpuidSupported => supported(a, b),
        RootCall::Statistics => transfer::write(c, 3, &statistics(a, b)?).map(|()| None),
        RootCall::LogRead => {
            let bytes = transfer::bytes(a, 1, b, 2)?;
            let (start, text) =
                bytes.split_first_chunk_mut().ok_or(Status::argument(Fault::BadValue, 2))?;
            let (position, count) = log::read(c, text);
            *start = position.to_le_bytes();
            Ok(Some(count as u64))
        }
        RootCall::SelfCheck => Ok(Some(integrity::changed().map_or(0, |part| part as u64))),
        RootCall::DeviceAttach | RootCall::DeviceDetach => Err(Status::fault(Fault::NotSupported)),
    }
}

#[inline]
fn partition_of(number: u64) -> Result<PartitionRef, Status> {
    partition::get(number).ok_or(Status::argument(Fault::NotFound, 1))
}

#[inline]
fn vcpu_of(partition: &PartitionRef, index: u64) -> Result<&Vcpu, Status> {
    partition.vcpu(index).ok_or(Status::argument(Fault::NotFound, 2))
}

fn held(partition: &PartitionRef, index: u64) -> Result<vcpu::Held<'_>, Status> {
    vcpu_of(partition, index)?.hold().ok_or(Status::argument(Fault::Busy, 2))
}

/// A page-aligned range of guest-physical memory from arguments 2 and `count_argument`.
fn guest_range(
    start: u64,
    pages: u64,
    count_argument: u8,
) -> Result<(GuestPhysical, Bytes), Status> {
    validate::guest_pages(start, pages, machine().address_bits as u8).map_err(|error| {
        let argument = if error == RangeError::Misaligned { 2 } else { count_argument };
        Status::argument(Fault::BadValue, argument)
    })
}

fn map(number: u64, guest: u64, pool: u64, pages: u64, access: u64) -> Answer {
    let partition = partition_of(number)?;
    let (guest, _) = guest_range(guest, pages, 4)?;
    let from = validate::pool_pages(pool, pages, machine().pool)
        .map_err(|_| Status::argument(Fault::BadValue, 3))?;
    let access = validate::memory_access(access).ok_or(Status::argument(Fault::BadValue, 5))?;
    partition.map(guest, from, access).map(|()| None)
}

fn reserve(number: u64, pages: u64, alignment: u64) -> Answer {
    let partition = partition_of(number)?;
    let size = pages.checked_mul(PAGE_SIZE).filter(|size| *size > 0);
    let size = size.ok_or(Status::argument(Fault::BadValue, 2))?;
    if !alignment.is_power_of_two() || alignment < PAGE_SIZE {
        return Err(Status::argument(Fault::BadValue, 3));
    }
    match partition.reserve(Bytes(size), alignment) {
        Ok(start) => Ok(Some(start.0)),
        Err(fault) => Err(Status::argument(fault, 2)),
    }
}

fn dirty_log(number: u64, guest: u64, pages: u64, offset: u64) -> Answer {
    let partition = partition_of(number)?;
    let (guest, bytes) = guest_range(guest, pages, 3)?;
    let into = transfer::bytes(offset, 4, pages.div_ceil(8), 3)?;
    into.fill(0);
    partition.dirty_log(guest, bytes, into).map(|()| None)
}

fn destroy(number: u64, owner: u64, cpu: &mut Cpu) -> Answer {
    partition::destroy(number, owner, |partition| {
        while let Some((start, bytes)) = partition.range(0) {
            if partition.unmap(&mut cpu.window, start, bytes).is_err() {
                log!("partition {number}: its memory at {start} cannot be taken back");
                break;
            }
        }
        cpu.window.forget();
    })?;
    Ok(None)
}

fn set_state(number: u64, index: u64, offset: u64, cpu: &mut Cpu) -> Answer {
    let partition = partition_of(number)?;
    let mut held = held(&partition, index)?;
    let state: VcpuState = transfer::read(offset, 3)?;
    let bad = Status::argument(Fault::BadValue, 3);
    validate::vcpu_state(&state, &held.msrs.features).map_err(|_| bad)?;
    let mut pointers = [0; 32];
    let at = vcpu::directory_pointers(&state.system);
    let read = at.is_none_or(|at| partition.read(&mut cpu.window, at, &mut pointers));
    held.set_state(&state).ok().filter(|()| read).ok_or(bad)?;
    if at.is_some() {
        held.context.set_directory_pointers(pointers.as_chunks().0);
    }
    Ok(None)
}

fn set_cpuid(number: u64, index: u64, offset: u64, count: u64) -> Answer {
    let partition = partition_of(number)?;
    let mut held = held(&partition, index)?;
    if held.started {
        return Err(Status::argument(Fault::Busy, 2));
    }
    let mut rows = [CpuidRow::default(); MAX_CPUID_ROWS];
    let rows = usize::try_from(count).ok().and_then(|count| rows.get_mut(..count));
    let rows = rows.ok_or(Status::argument(Fault::BadValue, 4))?;
    for (place, row) in rows.iter_mut().enumerate() {
        *row = transfer::read(offset + (place * size_of::<CpuidRow>()) as u64, 3)?;
    }
    let table = cpuid::restrict(rows.iter().copied(), machine().supported, index as u32)
        .map_err(|_| Status::argument(Fault::BadValue, 3))?;
    held.set_cpuid(table);
    Ok(None)
}

fn supported(offset: u64, most: u64) -> Answer {
    let supported = machine().supported;
    for (place, row) in (0..most).zip(supported.rows()) {
        transfer::write(offset + place * size_of::<CpuidRow>() as u64, 1, &row)?;
    }
    Ok(Some(supported.rows().count() as u64))
}

fn statistics(number: u64, index: u64) -> Result<StatisticsRecord, Status> {
    if number == 0 {
        let cpu = usize::try_from(index).ok().and_then(processor::by_index);
        let counted = cpu.ok_or(Status::argument(Fault::NotFound, 2))?.exits();
        let mut record = StatisticsRecord::default();
        record.exits[..counted.len()].copy_from_slice(&counted);
        // Each exit is followed by an entry.
        record.entries = counted.iter().sum();
        return Ok(record);
    }
    let partition = partition_of(number)?;
    let held = held(&partition, index)?;
    Ok(StatisticsRecord { table_bytes: partition.table_bytes().0, ..held.statistics })
}

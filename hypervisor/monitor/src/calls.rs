//! Calls to the core with types: what root may ask, one function each.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use hypervisor_abi::{
    CorePart, CpuidRow, GeneralRegisters, MAX_CPUID_ROWS, RootCall, RunPage, Segment,
    StatisticsRecord, Status, SystemRegisters, VcpuState,
};
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// The way into the core.
pub trait Gate: Send + Sync {
    /// Makes call `number`; gives status and results.
    fn call(&self, number: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]);
}

/// One vCPU's run page.
pub trait RunPageAccess: Send {
    /// The page. The core changes it during [`RootCall::VcpuRun`] only.
    fn page(&mut self) -> &mut RunPage;
}

/// A part of the transfer area.
pub trait Transfer: Send {
    /// Where it lies in the transfer area.
    fn offset(&self) -> u64;

    /// Its bytes.
    fn bytes(&mut self) -> &mut [u8];
}

/// The core refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Which.
    pub call: RootCall,
    /// Why.
    pub status: Status,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the core refused {:?}: ", self.call)?;
        match self.status.unpack() {
            Some((fault, 0)) => write!(f, "{}", fault.text()),
            Some((fault, argument)) => write!(f, "{} (argument {argument})", fault.text()),
            None => write!(f, "status {:#x}", self.status.0),
        }
    }
}

impl core::error::Error for CallError {}

/// A partition's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionId(pub u64);

/// Access to guest memory: bits of [`RootCall::MemoryMap`]'s argument 5.
const WRITE: u64 = 1 << 0;
const EXECUTE: u64 = 1 << 1;

/// The core.
pub struct Core {
    gate: Box<dyn Gate>,
}

impl Core {
    /// The core behind `gate`.
    #[must_use]
    pub fn new(gate: Box<dyn Gate>) -> Self {
        Self { gate }
    }

    fn call(&self, call: RootCall, arguments: [u64; 5]) -> Result<[u64; 2], CallError> {
        match self.gate.call(call, arguments) {
            (Status::OK, results) => Ok(results),
            (status, _) => Err(CallError { call, status }),
        }
    }

    /// Version of its interface.
    ///
    /// # Errors
    /// It takes no calls from here: the key is wrong.
    pub fn version(&self) -> Result<u32, CallError> {
        Ok(self.call(RootCall::Version, [0; 5])?[0] as u32)
    }

    /// Makes an empty partition.
    ///
    /// # Errors
    /// The core has no more.
    pub fn create_partition(&self) -> Result<PartitionId, CallError> {
        Ok(PartitionId(self.call(RootCall::PartitionCreate, [0; 5])?[0]))
    }

    /// Gives a partition memory: `size` bytes of the pool from `from` on, at `at`.
    ///
    /// # Errors
    /// The pages are not free, or the core has no memory for tables.
    pub fn map(
        &self,
        partition: PartitionId,
        at: GuestPhysical,
        from: HostPhysical,
        size: Bytes,
    ) -> Result<(), CallError> {
        let pages = size.0 / PAGE_SIZE;
        let arguments = [partition.0, at.0, from.0, pages, WRITE | EXECUTE];
        self.call(RootCall::MemoryMap, arguments).map(|_| ())
    }

    /// Makes vCPU `index`; gives the offset of its run page in the pool.
    ///
    /// # Errors
    /// The core has no more.
    pub fn create_vcpu(&self, partition: PartitionId, index: usize) -> Result<u64, CallError> {
        let arguments = [partition.0, index as u64, 0, 0, 0];
        Ok(self.call(RootCall::VcpuCreate, arguments)?[0])
    }

    /// Runs vCPU `index` until it has an exit.
    ///
    /// # Errors
    /// There is no such vCPU, or it runs elsewhere.
    pub fn run(&self, partition: PartitionId, index: usize) -> Result<(), CallError> {
        let arguments = [partition.0, index as u64, 0, 0, 0];
        self.call(RootCall::VcpuRun, arguments).map(|_| ())
    }

    /// Delivers a message-signalled interrupt; gives a bit for each vCPU that is to be run again.
    ///
    /// # Errors
    /// The message addresses nobody.
    pub fn inject(
        &self,
        partition: PartitionId,
        address: u64,
        data: u32,
    ) -> Result<u64, CallError> {
        let arguments = [partition.0, address, data.into(), 0, 0];
        Ok(self.call(RootCall::Inject, arguments)?[0])
    }

    /// The state of vCPU `index`.
    ///
    /// # Errors
    /// There is no such vCPU.
    pub fn state(
        &self,
        partition: PartitionId,
        index: usize,
        slot: &mut dyn Transfer,
    ) -> Result<VcpuState, CallError> {
        let arguments = [partition.0, index as u64, slot.offset(), 0, 0];
        self.call(RootCall::VcpuGetState, arguments)?;
        Ok(plain::read(slot.bytes()))
    }

    /// Sets the state of vCPU `index`.
    ///
    /// # Errors
    /// The state is impossible.
    pub fn set_state(
        &self,
        partition: PartitionId,
        index: usize,
        state: &VcpuState,
        slot: &mut dyn Transfer,
    ) -> Result<(), CallError> {
        plain::write(slot.bytes(), state);
        let arguments = [partition.0, index as u64, slot.offset(), 0, 0];
        self.call(RootCall::VcpuSetState, arguments).map(|_| ())
    }

    /// The CPUID the core can give guests.
    ///
    /// # Errors
    /// Never, in a core of this version.
    pub fn supported_cpuid(&self, slot: &mut dyn Transfer) -> Result<Vec<CpuidRow>, CallError> {
        let arguments = [slot.offset(), MAX_CPUID_ROWS as u64, 0, 0, 0];
        let [count, _] = self.call(RootCall::CpuidSupported, arguments)?;
        let count = (count as usize).min(MAX_CPUID_ROWS);
        let bytes = slot.bytes();
        Ok((0..count).map(|row| plain::read(&bytes[row * size_of::<CpuidRow>()..])).collect())
    }

    /// Says what vCPU `index` sees in CPUID.
    ///
    /// # Errors
    /// The core cannot virtualize a row.
    pub fn set_cpuid(
        &self,
        partition: PartitionId,
        index: usize,
        rows: &[CpuidRow],
        slot: &mut dyn Transfer,
    ) -> Result<(), CallError> {
        let rows = &rows[..rows.len().min(MAX_CPUID_ROWS)];
        for (at, row) in rows.iter().enumerate() {
            plain::write(&mut slot.bytes()[at * size_of::<CpuidRow>()..], row);
        }
        let arguments = [partition.0, index as u64, slot.offset(), rows.len() as u64, 0];
        self.call(RootCall::VcpuSetCpuid, arguments).map(|_| ())
    }

    /// Counters of vCPU `index`.
    ///
    /// # Errors
    /// There is no such vCPU.
    pub fn statistics(
        &self,
        partition: PartitionId,
        index: usize,
        slot: &mut dyn Transfer,
    ) -> Result<StatisticsRecord, CallError> {
        let arguments = [partition.0, index as u64, slot.offset(), 0, 0];
        self.call(RootCall::Statistics, arguments)?;
        Ok(plain::read(slot.bytes()))
    }

    /// The part of the core's own memory that is not as it was, if there is one.
    ///
    /// # Errors
    /// The core does not look.
    pub fn self_check(&self) -> Result<Option<CorePart>, CallError> {
        let [part, _] = self.call(RootCall::SelfCheck, [0; 5])?;
        Ok(CorePart::from_number(part))
    }
}

/// Structures of the interface as bytes.
mod plain {
    #![allow(unsafe_code)]

    use super::*;

    /// A structure of which any bytes are a value, without padding.
    ///
    /// # Safety
    /// It is.
    pub(super) unsafe trait Plain: Copy {}

    // SAFETY: `repr(C)` structures of integers, each at a multiple of its size, without padding: the
    // sizes below add up.
    unsafe impl Plain for VcpuState {}
    // SAFETY: as above.
    unsafe impl Plain for CpuidRow {}
    // SAFETY: as above.
    unsafe impl Plain for StatisticsRecord {}

    const _: () = assert!(size_of::<Segment>() == 8 + 4 + 2 + 2);
    const _: () = assert!(size_of::<GeneralRegisters>() == 18 * 8);
    const _: () = assert!(size_of::<SystemRegisters>() == 8 * 16 + 2 * 16 + 25 * 8);
    const _: () = assert!(
        size_of::<VcpuState>() == 8 + size_of::<GeneralRegisters>() + size_of::<SystemRegisters>()
    );
    const _: () = assert!(size_of::<StatisticsRecord>() == (32 + 16 + 6) * 8);

    /// The value at the beginning of `bytes`.
    pub(super) fn read<T: Plain>(bytes: &[u8]) -> T {
        assert!(bytes.len() >= size_of::<T>());
        // SAFETY: there are enough bytes, and any bytes are a value.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    }

    /// Puts the value at the beginning of `bytes`.
    pub(super) fn write<T: Plain>(bytes: &mut [u8], value: &T) {
        assert!(bytes.len() >= size_of::<T>());
        // SAFETY: there is room, and the value has no padding to leak.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(*value) };
    }
}

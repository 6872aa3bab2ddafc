//! The core's calls with types: what this engine asks, one function each.

use super::gate::{CallError, Gate};
use hypervisor_abi::{CorePart, Fault, RootCall, Status};
use std::sync::Arc;
use std::time::Duration;
use units::{Bytes, GuestPhysical, PAGE_SIZE};

/// A partition's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionNumber(pub(super) u64);

/// Bits of [`RootCall::MemoryMap`]'s argument 5.
const WRITE: u64 = 1 << 0;
const EXECUTE: u64 = 1 << 1;

/// The core, by its calls.
#[derive(Clone)]
pub(super) struct Calls(Arc<dyn Gate>);

impl Calls {
    pub(super) fn new(gate: Arc<dyn Gate>) -> Self {
        Self(gate)
    }

    fn call(&self, call: RootCall, arguments: [u64; 5]) -> Result<u64, CallError> {
        match self.0.call(call, arguments) {
            (Status::OK, [result, _]) => Ok(result),
            (status, _) => Err(CallError { call, status }),
        }
    }

    /// As [`Self::call`], again and again while what is named is in use for a moment.
    fn patiently(&self, call: RootCall, arguments: [u64; 5]) -> Result<u64, CallError> {
        const TRIES: u32 = 200;
        const PAUSE: Duration = Duration::from_micros(500);
        for _ in 1..TRIES {
            match self.call(call, arguments) {
                Err(error) if error.fault() == Some(Fault::Busy) => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        self.call(call, arguments)
    }

    /// The interface's version, as the core itself says: the key is right.
    pub(super) fn version(&self) -> Result<u32, CallError> {
        self.call(RootCall::Version, [0; 5]).map(|version| version as u32)
    }

    pub(super) fn create_partition(&self, owner: u64) -> Result<PartitionNumber, CallError> {
        self.call(RootCall::PartitionCreate, [owner, 0, 0, 0, 0]).map(PartitionNumber)
    }

    /// Ends a partition if it is `owner`'s.
    pub(super) fn destroy_partition(
        &self,
        partition: PartitionNumber,
        owner: u64,
    ) -> Result<(), CallError> {
        self.patiently(RootCall::PartitionDestroy, [partition.0, owner, 0, 0, 0]).map(|_| ())
    }

    pub(super) fn owner(&self, partition: PartitionNumber) -> Result<u64, CallError> {
        self.call(RootCall::PartitionOwner, [partition.0, 0, 0, 0, 0])
    }

    /// Keeps pool memory for a partition; gives its pool address.
    pub(super) fn reserve(
        &self,
        partition: PartitionNumber,
        size: Bytes,
        alignment: u64,
    ) -> Result<u64, CallError> {
        let arguments = [partition.0, size.0 / PAGE_SIZE, alignment, 0, 0];
        self.call(RootCall::MemoryReserve, arguments)
    }

    /// Fills it with zeros; interrupts and signals are taken in between.
    pub(super) fn clear(&self, partition: PartitionNumber, pool: u64) -> Result<(), CallError> {
        while self.patiently(RootCall::MemoryClear, [partition.0, pool, 0, 0, 0])? > 0 {}
        Ok(())
    }

    pub(super) fn release(&self, partition: PartitionNumber, pool: u64) -> Result<(), CallError> {
        self.call(RootCall::MemoryRelease, [partition.0, pool, 0, 0, 0]).map(|_| ())
    }

    /// Bytes of the pool that are kept for nobody: all, and those in the largest piece.
    pub(super) fn unreserved(&self) -> Result<(Bytes, Bytes), CallError> {
        let ask = |what| self.call(RootCall::MemoryUnreserved, [what, 0, 0, 0, 0]).map(Bytes);
        Ok((ask(0)?, ask(1)?))
    }

    pub(super) fn map(
        &self,
        partition: PartitionNumber,
        guest: GuestPhysical,
        pool: u64,
        size: Bytes,
        writable: bool,
    ) -> Result<(), CallError> {
        let access = if writable { WRITE | EXECUTE } else { EXECUTE };
        let arguments = [partition.0, guest.0, pool, size.0 / PAGE_SIZE, access];
        self.call(RootCall::MemoryMap, arguments).map(|_| ())
    }

    pub(super) fn unmap(
        &self,
        partition: PartitionNumber,
        guest: GuestPhysical,
        size: Bytes,
    ) -> Result<(), CallError> {
        let arguments = [partition.0, guest.0, size.0 / PAGE_SIZE, 0, 0];
        self.call(RootCall::MemoryUnmap, arguments).map(|_| ())
    }

    /// A bitmap of pages written to the transfer area at `offset`.
    pub(super) fn dirty_log(
        &self,
        partition: PartitionNumber,
        guest: GuestPhysical,
        pages: u64,
        offset: u64,
    ) -> Result<(), CallError> {
        let arguments = [partition.0, guest.0, pages, offset, 0];
        self.call(RootCall::MemoryDirtyLog, arguments).map(|_| ())
    }

    /// Makes a vCPU; gives the offset of its run page in the pool.
    pub(super) fn create_vcpu(
        &self,
        partition: PartitionNumber,
        index: u32,
    ) -> Result<u64, CallError> {
        self.call(RootCall::VcpuCreate, [partition.0, index.into(), 0, 0, 0])
    }

    /// One run. [`Fault::Busy`] while someone looks at the vCPU.
    #[inline]
    pub(super) fn run(&self, partition: PartitionNumber, index: u32) -> Result<(), CallError> {
        self.call(RootCall::VcpuRun, [partition.0, index.into(), 0, 0, 0]).map(|_| ())
    }

    pub(super) fn kick(&self, partition: PartitionNumber, index: u32) -> Result<(), CallError> {
        self.call(RootCall::VcpuKick, [partition.0, index.into(), 0, 0, 0]).map(|_| ())
    }

    pub(super) fn reset(&self, partition: PartitionNumber, index: u32) -> Result<(), CallError> {
        self.patiently(RootCall::VcpuReset, [partition.0, index.into(), 0, 0, 0]).map(|_| ())
    }

    /// The counters of a vCPU to transfer `offset`; [`Fault::Busy`] while it runs.
    pub(super) fn statistics(
        &self,
        partition: PartitionNumber,
        index: u32,
        offset: u64,
    ) -> Result<(), CallError> {
        self.call(RootCall::Statistics, [partition.0, index.into(), offset, 0, 0]).map(|_| ())
    }

    /// `call` is [`RootCall::VcpuGetState`] or [`RootCall::VcpuSetState`], with the state at transfer
    /// `offset`.
    pub(super) fn of_vcpu(
        &self,
        call: RootCall,
        partition: PartitionNumber,
        index: u32,
        offset: u64,
    ) -> Result<(), CallError> {
        self.patiently(call, [partition.0, index.into(), offset, 0, 0]).map(|_| ())
    }

    pub(super) fn set_cpuid(
        &self,
        partition: PartitionNumber,
        index: u32,
        offset: u64,
        rows: usize,
    ) -> Result<(), CallError> {
        let arguments = [partition.0, index.into(), offset, rows as u64, 0];
        self.patiently(RootCall::VcpuSetCpuid, arguments).map(|_| ())
    }

    /// Rows of what guests can be given to transfer `offset`, at most `most`; gives how many there are.
    pub(super) fn supported_cpuid(&self, offset: u64, most: usize) -> Result<u64, CallError> {
        self.call(RootCall::CpuidSupported, [offset, most as u64, 0, 0, 0])
    }

    /// Delivers a message; gives a bit for each vCPU that is to be run again.
    #[inline]
    pub(super) fn inject(
        &self,
        partition: PartitionNumber,
        address: u64,
        data: u32,
    ) -> Result<u64, CallError> {
        self.call(RootCall::Inject, [partition.0, address, data.into(), 0, 0])
    }

    /// Delivers a non-maskable interrupt; gives what [`Self::inject`] does.
    pub(super) fn inject_nmi(
        &self,
        partition: PartitionNumber,
        index: u32,
    ) -> Result<u64, CallError> {
        self.call(RootCall::InjectNmi, [partition.0, index.into(), 0, 0, 0])
    }

    /// The core's log from `position` on to transfer `offset`, at most `most` bytes; gives how many bytes
    /// of text follow the position of the first of them.
    pub(super) fn read_log(&self, offset: u64, most: u64, position: u64) -> Result<u64, CallError> {
        self.call(RootCall::LogRead, [offset, most, position, 0, 0])
    }

    /// Whether the core's own memory is as it was: [`None`] when it is.
    pub(super) fn self_check(&self) -> Result<Option<CorePart>, CallError> {
        Ok(CorePart::from_number(self.call(RootCall::SelfCheck, [0; 5])?))
    }
}

//! One KVM virtual machine.

use super::counters::BinaryStats;
use super::doorbell::Ioeventfd;
use super::interrupt::{self, Irqfd, Routes};
use super::processor::KvmProcessor;
use super::slots::Slots;
use super::{Offers, convert, failed};
use crate::{
    Access, CpuidEntry, Doorbell, EngineError, HostMapping, InterruptFd, Msi, Partition, Processor,
};
use kvm_ioctls::{Kvm, VmFd};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use units::GuestPhysical;

/// Entries KVM_GET_SUPPORTED_CPUID may answer with.
const CPUID_ENTRIES: usize = kvm_bindings::KVM_MAX_CPUID_ENTRIES;

/// A KVM virtual machine with its memory and routes.
pub(super) struct KvmPartition {
    kvm: Arc<Kvm>,
    vm: Arc<VmFd>,
    offers: Offers,
    processors: u32,
    created: Mutex<Vec<bool>>,
    memory: Arc<Mutex<Slots>>,
    routes: Arc<Mutex<Routes>>,
    statistics: Option<BinaryStats>,
}

impl KvmPartition {
    pub(super) fn new(kvm: Arc<Kvm>, vm: VmFd, offers: Offers, processors: u32) -> Self {
        let statistics = offers.binary_stats.then(|| BinaryStats::open(&vm));
        Self {
            kvm,
            vm: Arc::new(vm),
            offers,
            processors,
            created: Mutex::new(vec![false; processors as usize]),
            memory: Arc::default(),
            routes: Arc::default(),
            statistics: statistics.and_then(optional),
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Slots> {
        // The table changes in one statement after KVM agreed, so a panic elsewhere spoils nothing.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Statistics are worth a line in the log, not a failed start.
pub(super) fn optional(statistics: Result<BinaryStats, EngineError>) -> Option<BinaryStats> {
    statistics.inspect_err(|error| tracing::info!(%error, "KVM's own statistics are left out")).ok()
}

impl Partition for KvmPartition {
    fn map(
        &self,
        guest: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        access: Access,
    ) -> Result<(), EngineError> {
        if access == Access::ReadOnly && !self.offers.read_only_memory {
            return Err(EngineError::NotOffered { engine: "kvm", what: "read-only memory" });
        }
        self.memory().map(&self.vm, guest, mapping, access)
    }

    fn unmap(&self, guest: GuestPhysical) -> Result<(), EngineError> {
        self.memory().unmap(&self.vm, guest)
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, EngineError> {
        let supported = self
            .kvm
            .get_supported_cpuid(CPUID_ENTRIES)
            .map_err(|error| failed("KVM_GET_SUPPORTED_CPUID", error))?;
        let mut entries: Vec<_> = supported.as_slice().iter().map(convert::cpuid_from).collect();
        for entry in entries.iter_mut().filter(|entry| entry.leaf == 1) {
            entry.ecx |= with_kernel_apic(self.offers.deadline_timer);
        }
        Ok(entries)
    }

    fn create_processor(&self, index: u32) -> Result<Box<dyn Processor>, EngineError> {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(index)
            .ok()
            .and_then(|index| created.get_mut(index))
            .filter(|taken| !**taken)
            .ok_or(EngineError::ProcessorIndex { index, limit: self.processors })?;
        let processor = KvmProcessor::new(
            &self.kvm,
            Arc::clone(&self.vm),
            Arc::clone(&self.memory),
            self.offers,
            index,
        )?;
        *place = true;
        Ok(Box::new(processor))
    }

    fn inject(&self, msi: Msi) -> Result<(), EngineError> {
        interrupt::inject(&self.vm, msi)
    }

    fn set_line_routes(&self, pins: &[Option<Msi>]) -> Result<(), EngineError> {
        interrupt::lock(&self.routes).set_pins(&self.vm, pins)
    }

    fn interrupt_fd(&self) -> Result<Option<Box<dyn InterruptFd>>, EngineError> {
        if !self.offers.irqfd {
            return Ok(None);
        }
        let irqfd = Irqfd::new(Arc::clone(&self.vm), Arc::clone(&self.routes))?;
        Ok(Some(Box::new(irqfd)))
    }

    fn doorbell(
        &self,
        doorbell: Doorbell,
        event: BorrowedFd<'_>,
    ) -> Result<Option<Box<dyn Send + Sync>>, EngineError> {
        let any_width = doorbell.width == 0;
        if !self.offers.ioeventfd || any_width && !self.offers.ioeventfd_any_length {
            return Ok(None);
        }
        let ioeventfd = Ioeventfd::new(Arc::clone(&self.vm), doorbell, event)?;
        Ok(Some(Box::new(ioeventfd)))
    }

    fn dirty_pages(&self, guest: GuestPhysical) -> Result<Vec<u64>, EngineError> {
        self.memory().dirty_pages(&self.vm, guest)
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        self.statistics.as_ref().map(BinaryStats::read).unwrap_or_default()
    }
}

/// Features in CPUID.1:ECX that KVM offers with a local APIC in the kernel but leaves out of
/// KVM_GET_SUPPORTED_CPUID, which knows no partition (KVM API 4.46).
fn with_kernel_apic(deadline_timer: bool) -> u32 {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    if deadline_timer { X2APIC | TSC_DEADLINE } else { X2APIC }
}

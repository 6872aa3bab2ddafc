//! One KVM virtual CPU.

use super::counters::BinaryStats;
use super::kick::{self, KickState};
use super::partition::optional;
use super::slots::Slots;
use super::{Offers, convert, failed, power_on, run_page};
use crate::counters::ProcessorCounters;
use crate::{
    CpuidEntry, EngineError, Exit, Kick, Msr, Processor, Registers, RunState, Statistics,
    SystemRegisters,
};
use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    CpuId, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, Msrs, Xsave, kvm_interrupt, kvm_mp_state, kvm_msr_entry, kvm_xcr,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::{ioctl::ioctl_with_ref, ioctl_iow_nr};

// Not in `kvm-ioctls`.
ioctl_iow_nr!(KVM_INTERRUPT, kvm_bindings::KVMIO, 0x86, kvm_bindings::kvm_interrupt);

/// MSRs per KVM_GET_MSRS or KVM_SET_MSRS; the wrapper's limit is 256.
const MSR_BATCH: usize = 128;
/// IA32_TIME_STAMP_COUNTER (SDM 4 2.1). It never stands still, so a reset always writes it; KVM
/// takes zeros written to several processors within a second as "keep them in step".
const TSC: u32 = 0x10;

/// A KVM virtual CPU.
pub(super) struct KvmProcessor {
    vcpu: VcpuFd,
    index: u32,
    run_size: usize,
    kick: Arc<KickState>,
    counters: Arc<ProcessorCounters>,
    /// An interrupt was queued since the last run, so the run page's word on it is stale.
    queued: bool,
    signature: u32,
    fresh: Fresh,
    // Below everything that could still run the guest, because fields are dropped in this order.
    vm: Arc<VmFd>,
    _memory: Arc<Mutex<Slots>>,
}

/// What KVM gave the new processor and no manual fixes: what a reset goes back to.
struct Fresh {
    msr_indexes: Vec<u32>,
    msrs: Vec<Msr>,
    /// Set by the caller since: `msrs` stays as it is from then on.
    msrs_final: bool,
    nested: Option<Box<KvmNestedStateBuffer>>,
}

impl KvmProcessor {
    pub(super) fn new(
        kvm: &Kvm,
        vm: Arc<VmFd>,
        memory: Arc<Mutex<Slots>>,
        offers: Offers,
        index: u32,
    ) -> Result<Self, EngineError> {
        let vcpu =
            vm.create_vcpu(index.into()).map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        let kernel = offers.binary_stats.then(|| BinaryStats::open(&vcpu));
        let msr_indexes = kvm
            .get_msr_index_list()
            .map_err(|error| failed("KVM_GET_MSR_INDEX_LIST", error))?
            .as_slice()
            .to_vec();
        let msrs = read_msrs(&vcpu, &msr_indexes)?;
        let nested = if offers.nested_state {
            let mut state = Box::new(KvmNestedStateBuffer::empty());
            vcpu.nested_state(&mut state).map_err(|error| failed("KVM_GET_NESTED_STATE", error))?;
            Some(state)
        } else {
            None
        };
        let processor = Self {
            run_size: vm.run_size(),
            kick: Arc::new(KickState::new(&vcpu)?),
            counters: Arc::new(ProcessorCounters::new(
                kernel.and_then(optional).map(|kernel| Box::new(kernel) as _),
            )),
            vcpu,
            index,
            queued: false,
            signature: 0,
            fresh: Fresh { msr_indexes, msrs, msrs_final: false, nested },
            vm,
            _memory: memory,
        };
        // KVM learns which APIC id leads to a new processor only when something touches its local
        // APIC; until then INIT and SIPI would get lost.
        processor.reset_local_apic()?;
        Ok(processor)
    }

    fn reset_local_apic(&self) -> Result<(), EngineError> {
        let old = self.vcpu.get_lapic().map_err(|error| failed("KVM_GET_LAPIC", error))?;
        self.vcpu
            .set_lapic(&power_on::local_apic(&old, self.index))
            .map_err(|error| failed("KVM_SET_LAPIC", error))
    }

    /// KVM_RUN; true when a kick or a signal ended it, false when the run page holds an exit.
    fn enter(&mut self) -> Result<bool, EngineError> {
        loop {
            self.kick.enter();
            let result = self.vcpu.run().map(|_exit| ());
            self.kick.leave();
            match result {
                Ok(()) => return Ok(false),
                Err(error) if error.errno() == libc::EINTR => {
                    self.kick.take();
                    return Ok(true);
                }
                // A waiting processor got its SIPI; KVM wants to be called again.
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) => return Err(failed("KVM_RUN", error)),
            }
        }
    }

    fn reset_floating_point(&self) -> Result<(), EngineError> {
        // An area whose header says that no component is in use puts all into their initial
        // state (SDM 1 13.6); then x87 and SSE get the values of power-on.
        let needed = usize::try_from(self.vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let beyond = needed.saturating_sub(size_of::<kvm_xsave>());
        let area = Xsave::new(beyond.div_ceil(size_of::<u32>())).map_err(|_too_large| {
            EngineError::call("KVM_SET_XSAVE", io::Error::from_raw_os_error(libc::ENOMEM))
        })?;
        // SAFETY: `area` has the size KVM_CAP_XSAVE2 asks for on this VM, and this process enables
        // no further state components once its processors exist.
        unsafe { self.vcpu.set_xsave2(&area) }.map_err(|error| failed("KVM_SET_XSAVE", error))?;
        self.vcpu.set_fpu(&power_on::fpu()).map_err(|error| failed("KVM_SET_FPU", error))?;
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        // XCR0 holds x87 alone (SDM 3A table 10-1).
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: 1, ..Default::default() };
        if self.vm.check_extension(Cap::Xcrs) {
            self.vcpu.set_xcrs(&xcrs).map_err(|error| failed("KVM_SET_XCRS", error))?;
        }
        Ok(())
    }

    /// Writes back each register that differs from what the new processor had.
    fn reset_msrs(&mut self) -> Result<(), EngineError> {
        let now = read_msrs(&self.vcpu, &self.fresh.msr_indexes)?;
        let changed: Vec<Msr> = self
            .fresh
            .msrs
            .iter()
            .filter(|fresh| fresh.index != TSC && !now.contains(fresh))
            .copied()
            .collect();
        for msr in changed {
            // Figures KVM computes cannot be set; they are no state a guest put there.
            if let Err(error) = write_msrs(&self.vcpu, &[msr]) {
                tracing::debug!(processor = self.index, %error, "not reset");
            }
        }
        write_msrs(&self.vcpu, &[Msr { index: TSC, value: 0 }])
    }
}

impl Processor for KvmProcessor {
    fn index(&self) -> u32 {
        self.index
    }

    fn run(&mut self) -> Result<Exit<'_>, EngineError> {
        self.fresh.msrs_final = true;
        self.queued = false;
        let exit = if self.enter()? {
            Exit::Interrupted
        } else {
            run_page::decode(self.vcpu.get_kvm_run(), self.run_size)
        };
        self.counters.count(&exit);
        Ok(exit)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        kick::unblock();
        Arc::clone(&self.kick) as Arc<dyn Kick>
    }

    fn accepts_external_interrupt(&mut self) -> bool {
        !self.queued && self.vcpu.get_kvm_run().ready_for_interrupt_injection != 0
    }

    fn queue_external_interrupt(&mut self, vector: u8) -> Result<(), EngineError> {
        let interrupt = kvm_interrupt { irq: vector.into() };
        // SAFETY: a vCPU descriptor; KVM reads one `kvm_interrupt` from the reference.
        match unsafe { ioctl_with_ref(&self.vcpu, KVM_INTERRUPT(), &interrupt) } {
            0 => {
                self.queued = true;
                Ok(())
            }
            _ => Err(EngineError::call("KVM_INTERRUPT", io::Error::last_os_error())),
        }
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.vcpu.get_kvm_run().request_interrupt_window = wanted.into();
    }

    fn inject_nmi(&mut self) -> Result<(), EngineError> {
        self.vcpu.nmi().map_err(|error| failed("KVM_NMI", error))
    }

    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), EngineError> {
        let converted: Vec<_> = entries.iter().map(convert::cpuid_to).collect();
        let cpuid = CpuId::from_entries(&converted).map_err(|_too_many| {
            EngineError::call("KVM_SET_CPUID2", io::Error::from_raw_os_error(libc::E2BIG))
        })?;
        self.vcpu.set_cpuid2(&cpuid).map_err(|error| failed("KVM_SET_CPUID2", error))?;
        let signature = entries.iter().find(|entry| entry.leaf == 1);
        self.signature = signature.map_or(0, |entry| entry.eax);
        if !self.fresh.msrs_final {
            // CPUID decides which registers exist.
            self.fresh.msrs = read_msrs(&self.vcpu, &self.fresh.msr_indexes)?;
        }
        Ok(())
    }

    fn registers(&self) -> Result<Registers, EngineError> {
        let regs = self.vcpu.get_regs();
        regs.map(|regs| convert::registers_from(&regs))
            .map_err(|error| failed("KVM_GET_REGS", error))
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), EngineError> {
        self.vcpu
            .set_regs(&convert::registers_to(registers))
            .map_err(|error| failed("KVM_SET_REGS", error))
    }

    fn system_registers(&self) -> Result<SystemRegisters, EngineError> {
        let sregs = self.vcpu.get_sregs();
        sregs
            .map(|sregs| convert::system_registers_from(&sregs))
            .map_err(|error| failed("KVM_GET_SREGS", error))
    }

    fn set_system_registers(&mut self, registers: &SystemRegisters) -> Result<(), EngineError> {
        self.vcpu
            .set_sregs(&convert::system_registers_to(registers))
            .map_err(|error| failed("KVM_SET_SREGS", error))
    }

    fn msrs(&self, indexes: &[u32]) -> Result<Vec<Msr>, EngineError> {
        read_msrs(&self.vcpu, indexes)
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), EngineError> {
        self.fresh.msrs_final = true;
        write_msrs(&self.vcpu, msrs)
    }

    fn tsc_frequency(&self) -> Option<u64> {
        let kilohertz = self.vcpu.get_tsc_khz().ok().filter(|khz| *khz > 0)?;
        Some(u64::from(kilohertz) * 1000)
    }

    fn run_state(&self) -> Result<RunState, EngineError> {
        let state = self.vcpu.get_mp_state().map_err(|error| failed("KVM_GET_MP_STATE", error))?;
        Ok(match state.mp_state {
            KVM_MP_STATE_HALTED => RunState::Halted,
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => RunState::WaitForSipi,
            _ => RunState::Runnable,
        })
    }

    fn reset(&mut self) -> Result<(), EngineError> {
        let bootstrap = self.index == 0;
        // First, because KVM refuses control registers that a nested hypervisor's state forbids.
        if let Some(nested) = &self.fresh.nested {
            self.vcpu
                .set_nested_state(nested)
                .map_err(|error| failed("KVM_SET_NESTED_STATE", error))?;
        }
        self.set_system_registers(&power_on::system_registers(bootstrap))?;
        self.set_registers(&power_on::registers(self.signature))?;
        self.reset_floating_point()?;
        self.vcpu
            .set_debug_regs(&power_on::debug_registers())
            .map_err(|error| failed("KVM_SET_DEBUGREGS", error))?;
        // After the APIC base: it decides between xAPIC and x2APIC, and so the layout.
        self.reset_local_apic()?;
        self.reset_msrs()?;
        self.vcpu
            .set_vcpu_events(&power_on::events())
            .map_err(|error| failed("KVM_SET_VCPU_EVENTS", error))?;
        let mp_state = if bootstrap { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_UNINITIALIZED };
        self.vcpu
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(|error| failed("KVM_SET_MP_STATE", error))?;
        self.request_interrupt_window(false);
        Ok(())
    }

    fn stood_still(&mut self) -> Result<(), EngineError> {
        // Sets PVCLOCK_GUEST_STOPPED in the guest's kvmclock page at the next entry (KVM API 4.70).
        match self.vcpu.kvmclock_ctrl() {
            // The guest has no kvmclock page: not yet, not any more, or never.
            Err(error) if error.errno() == libc::EINVAL => Ok(()),
            other => other.map_err(|error| failed("KVM_KVMCLOCK_CTRL", error)),
        }
    }

    fn statistics(&self) -> Arc<dyn Statistics> {
        Arc::clone(&self.counters) as Arc<dyn Statistics>
    }
}

/// KVM stops at the first register it does not know; that one is left out.
fn read_msrs(vcpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<Msr>, EngineError> {
    let mut found = Vec::with_capacity(indexes.len());
    let mut rest = indexes;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(MSR_BATCH)];
        let entries: Vec<_> = batch.iter().map(|index| entry(*index, 0)).collect();
        let mut msrs = batch_of("KVM_GET_MSRS", &entries)?;
        let read = vcpu
            .get_msrs(&mut msrs)
            .map_err(|error| failed("KVM_GET_MSRS", error))?
            .min(batch.len());
        found.extend(
            msrs.as_slice()[..read]
                .iter()
                .map(|entry| Msr { index: entry.index, value: entry.data }),
        );
        let refused = usize::from(read < batch.len());
        rest = &rest[read + refused..];
    }
    Ok(found)
}

fn write_msrs(vcpu: &VcpuFd, msrs: &[Msr]) -> Result<(), EngineError> {
    for batch in msrs.chunks(MSR_BATCH) {
        let entries: Vec<_> = batch.iter().map(|msr| entry(msr.index, msr.value)).collect();
        let written = vcpu
            .set_msrs(&batch_of("KVM_SET_MSRS", &entries)?)
            .map_err(|error| failed("KVM_SET_MSRS", error))?;
        if let Some(refused) = batch.get(written) {
            return Err(EngineError::Msr { index: refused.index, value: refused.value });
        }
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn batch_of(operation: &'static str, entries: &[kvm_msr_entry]) -> Result<Msrs, EngineError> {
    Msrs::from_entries(entries).map_err(|_too_many| {
        EngineError::call(operation, io::Error::from_raw_os_error(libc::E2BIG))
    })
}

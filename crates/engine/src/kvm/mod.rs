//! Engine `kvm`: Linux KVM behind the traits of this crate. The local APICs live in the kernel; the
//! 8259 pair, the IOAPIC and the PIT do not ("split irqchip"), so that every engine shares the ones
//! in `chipset`.
//!
//! Called through [`crate::Engine`] only. Never knows a device. All `unsafe` of the crate is below
//! this folder: registering memory, the run page, and the few ioctls `kvm-ioctls` lacks.
#![allow(unsafe_code)]

mod convert;
mod counters;
mod doorbell;
mod interrupt;
mod kick;
mod partition;
mod power_on;
mod processor;
mod run_page;
mod slots;

use crate::{Capabilities, Engine, EngineError, Partition, PartitionConfig};
use kvm_bindings::{
    KVM_CAP_BINARY_STATS_FD, KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_CAP_SPLIT_IRQCHIP,
    KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    kvm_enable_cap,
};
use kvm_ioctls::Cap;
use std::io;
use std::sync::Arc;

/// The device file.
pub const DEVICE: &str = "/dev/kvm";

/// IOAPIC pins kept free in KVM's routing table for [`Partition::set_line_routes`]: one IOAPIC of
/// 24 pins (82093AA 3.2.2).
pub const LINE_PINS: usize = 24;

/// Guest-physical pages KVM needs for itself on Intel processors without unrestricted guest
/// (`KVM_SET_IDENTITY_MAP_ADDR`: one page, `KVM_SET_TSS_ADDR`: three pages). Below the 16 MiB of
/// flash at the top of 4 GiB and above the local APIC page. The guest's memory map must report them
/// as reserved.
pub const RESERVED_PAGES: std::ops::Range<u64> = IDENTITY_MAP..TASK_STATE + 0x3000;
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: u64 = 0xfeff_d000;

/// The KVM ABI this crate is written for (`KVM_GET_API_VERSION`; fixed since Linux 2.6.22).
const API_VERSION: i32 = 12;

/// Linux KVM, opened.
pub struct KvmEngine {
    kvm: Arc<kvm_ioctls::Kvm>,
    offers: Offers,
}

/// What this kernel's KVM can do that the code below asks about.
#[derive(Clone, Copy, Debug)]
struct Offers {
    max_processors: u32,
    irqfd: bool,
    ioeventfd: bool,
    ioeventfd_any_length: bool,
    read_only_memory: bool,
    binary_stats: bool,
    nested_state: bool,
    deadline_timer: bool,
}

impl KvmEngine {
    /// Opens [`DEVICE`] and checks that everything without which no machine runs is there.
    ///
    /// # Errors
    /// The device is missing or not accessible (with advice), or the kernel is too old.
    pub fn open() -> Result<Self, EngineError> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|error| {
            let source = io::Error::from_raw_os_error(error.errno());
            EngineError::Open { path: DEVICE, advice: advice(source.kind()), source }
        })?;
        if kvm.get_api_version() != API_VERSION {
            return Err(EngineError::Missing {
                engine: "kvm",
                what: "version 12 of the KVM interface",
            });
        }
        for (present, what) in [
            (kvm.check_extension(Cap::UserMemory), "KVM_CAP_USER_MEMORY"),
            (kvm.check_extension(Cap::SplitIrqchip), "KVM_CAP_SPLIT_IRQCHIP (Linux 4.5 or later)"),
            (kvm.check_extension(Cap::SignalMsi), "KVM_CAP_SIGNAL_MSI"),
            (kvm.check_extension(Cap::X2ApicApi), "KVM_CAP_X2APIC_API"),
            (
                kvm.check_extension(Cap::ImmediateExit),
                "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13 or later)",
            ),
            (kvm.check_extension(Cap::UserNmi), "KVM_CAP_USER_NMI"),
        ] {
            if !present {
                return Err(EngineError::Missing { engine: "kvm", what });
            }
        }
        let offers = Offers {
            max_processors: u32::try_from(kvm.get_max_vcpus()).unwrap_or(1),
            irqfd: kvm.check_extension(Cap::Irqfd) && kvm.check_extension(Cap::IrqRouting),
            ioeventfd: kvm.check_extension(Cap::Ioeventfd),
            ioeventfd_any_length: kvm.check_extension_raw(KVM_CAP_IOEVENTFD_ANY_LENGTH.into()) > 0,
            read_only_memory: kvm.check_extension(Cap::ReadonlyMem),
            binary_stats: kvm.check_extension_raw(KVM_CAP_BINARY_STATS_FD.into()) > 0,
            nested_state: kvm.check_extension_int(Cap::NestedState) > 0,
            deadline_timer: kvm.check_extension(Cap::TscDeadlineTimer),
        };
        Ok(Self { kvm: Arc::new(kvm), offers })
    }
}

/// What to do about a device that does not open.
fn advice(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "Add yourself to the group `kvm`: sudo usermod -aG kvm \"$USER\", then log in again"
                .to_owned()
        }
        io::ErrorKind::NotFound => {
            "Turn on virtualization (VT-x or AMD-V) in the firmware set-up and load the module: \
             sudo modprobe kvm_intel or kvm_amd; or use --engine tcg"
                .to_owned()
        }
        _ => "Use --engine tcg, or see `macrohard-hypervisor doctor`".to_owned(),
    }
}

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_processors: self.offers.max_processors,
            interrupt_fd: self.offers.irqfd,
            doorbell: self.offers.ioeventfd,
            dirty_log: true,
            read_only_memory: self.offers.read_only_memory,
            nested: self.offers.nested_state,
            memory_has_length: true,
        }
    }

    fn create_partition(
        &self,
        config: &PartitionConfig,
    ) -> Result<Arc<dyn Partition>, EngineError> {
        if config.processors == 0 || config.processors > self.offers.max_processors {
            return Err(EngineError::ProcessorCount {
                asked: config.processors,
                limit: self.offers.max_processors,
            });
        }
        let vm = retry_interrupted(|| self.kvm.create_vm())
            .map_err(|error| failed("KVM_CREATE_VM", error))?;
        enable(&vm, KVM_CAP_SPLIT_IRQCHIP, LINE_PINS as u64)
            .map_err(|error| failed("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)", error))?;
        enable(
            &vm,
            KVM_CAP_X2APIC_API,
            u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK),
        )
        .map_err(|error| failed("KVM_ENABLE_CAP(KVM_CAP_X2APIC_API)", error))?;
        vm.set_identity_map_address(IDENTITY_MAP)
            .map_err(|error| failed("KVM_SET_IDENTITY_MAP_ADDR", error))?;
        vm.set_tss_address(TASK_STATE as usize)
            .map_err(|error| failed("KVM_SET_TSS_ADDR", error))?;
        Ok(Arc::new(partition::KvmPartition::new(
            Arc::clone(&self.kvm),
            vm,
            self.offers,
            config.processors,
        )))
    }
}

fn enable(vm: &kvm_ioctls::VmFd, capability: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    vm.enable_cap(&kvm_enable_cap {
        cap: capability,
        args: [argument, 0, 0, 0],
        ..Default::default()
    })
}

/// KVM_CREATE_VM answers EINTR when a signal meets it.
fn retry_interrupted<T>(
    mut call: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, kvm_ioctls::Error> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other,
        }
    }
}

fn failed(operation: &'static str, error: kvm_ioctls::Error) -> EngineError {
    EngineError::call(operation, io::Error::from_raw_os_error(error.errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_permission_names_the_group() {
        assert!(advice(io::ErrorKind::PermissionDenied).contains("group `kvm`"));
        assert!(advice(io::ErrorKind::NotFound).contains("modprobe"));
    }
}

//! Messages to local APICs: sent at once, by descriptor, or only announced (IOAPIC pins, so that
//! KVM knows which vectors' ends to report).

use super::{LINE_PINS, failed};
use crate::{EngineError, InterruptFd, Msi};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// KVM_SIGNAL_MSI.
pub(super) fn inject(vm: &VmFd, msi: Msi) -> Result<(), EngineError> {
    let (address_lo, address_hi) = halves(msi.address);
    vm.signal_msi(kvm_msi { address_lo, address_hi, data: msi.data, ..Default::default() })
        // 0 is "blocked by the guest": no local APIC takes it, and the message is lost as on hardware.
        .map(|_delivered| ())
        .map_err(|error| failed("KVM_SIGNAL_MSI", error))
}

fn halves(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

/// KVM's one routing table of this partition: GSI 0 to 23 are the IOAPIC's pins, those above
/// belong to interrupt descriptors.
#[derive(Default)]
pub(super) struct Routes {
    pins: Vec<Option<Msi>>,
    descriptors: BTreeMap<u32, Descriptor>,
}

/// What an interrupt descriptor sends.
#[derive(Clone, Copy, Default)]
struct Descriptor {
    /// What it sent last, or sends.
    msi: Option<Msi>,
    /// KVM listens to the descriptor.
    heard: bool,
}

impl Routes {
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pins = (0u32..).zip(self.pins.iter().copied());
        let descriptors = self.descriptors.iter().map(|(gsi, sends)| (*gsi, sends.msi));
        pins.chain(descriptors).filter_map(|(gsi, msi)| Some(entry(gsi, msi?))).collect()
    }

    fn apply(&self, vm: &VmFd) -> Result<(), EngineError> {
        const OPERATION: &str = "KVM_SET_GSI_ROUTING";
        let table = KvmIrqRouting::from_entries(&self.entries()).map_err(|_too_many| {
            EngineError::call(OPERATION, io::Error::from_raw_os_error(libc::E2BIG))
        })?;
        vm.set_gsi_routing(&table).map_err(|error| failed(OPERATION, error))
    }

    pub(super) fn set_pins(&mut self, vm: &VmFd, pins: &[Option<Msi>]) -> Result<(), EngineError> {
        if pins.len() > LINE_PINS {
            return Err(EngineError::NotOffered {
                engine: "kvm",
                what: "more than 24 IOAPIC pins",
            });
        }
        if self.pins == pins {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.pins, pins.to_vec());
        self.apply(vm).inspect_err(|_| self.pins = before)
    }

    fn add(&mut self) -> u32 {
        let first = LINE_PINS as u32;
        let gsi = (first..).find(|gsi| !self.descriptors.contains_key(gsi)).unwrap_or(u32::MAX);
        self.descriptors.insert(gsi, Descriptor::default());
        gsi
    }
}

fn entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(msi.address);
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo,
                address_hi,
                data: msi.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

/// An irqfd with its route. While it is masked KVM does not listen to the descriptor, which keeps what is signalled:
/// a signal without a route would be lost.
pub(super) struct Irqfd {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
    gsi: u32,
    event: EventFd,
}

impl Irqfd {
    pub(super) fn new(vm: Arc<VmFd>, routes: Arc<Mutex<Routes>>) -> Result<Self, EngineError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| EngineError::call("eventfd", source))?;
        let gsi = lock(&routes).add();
        Ok(Self { vm, routes, gsi, event })
    }

    /// Signals before `msi` is sent are delivered as that.
    fn hear(&self) -> Result<(), EngineError> {
        let waits = self.event.read().is_ok();
        self.vm
            .register_irqfd(&self.event, self.gsi)
            .map_err(|error| failed("KVM_IRQFD", error))?;
        if waits {
            // Fails only where the counter is full, and is a signal then.
            let _ = self.event.write(1);
        }
        Ok(())
    }

    /// KVM delivers what it has heard before this returns.
    fn ignore(&self) -> Result<(), EngineError> {
        self.vm.unregister_irqfd(&self.event, self.gsi).map_err(|error| failed("KVM_IRQFD", error))
    }
}

impl InterruptFd for Irqfd {
    fn descriptor(&self) -> Result<OwnedFd, EngineError> {
        // SAFETY: the descriptor belongs to `self.event`, open as long as `self` is borrowed.
        let event = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&self.event)) };
        event.as_fd().try_clone_to_owned().map_err(|source| EngineError::call("dup", source))
    }

    fn set(&self, msi: Option<Msi>) -> Result<(), EngineError> {
        let mut routes = lock(&self.routes);
        let before = routes.descriptors.get(&self.gsi).copied().unwrap_or_default();
        let Some(msi) = msi else {
            if before.heard {
                self.ignore()?;
                // The route stays: as a rule the same one is wanted again.
                routes.descriptors.insert(self.gsi, Descriptor { heard: false, ..before });
            }
            return Ok(());
        };
        if before.msi != Some(msi) {
            routes.descriptors.insert(self.gsi, Descriptor { msi: Some(msi), ..before });
            routes.apply(&self.vm).inspect_err(|_| {
                routes.descriptors.insert(self.gsi, before);
            })?;
        }
        if !before.heard {
            self.hear()?;
            routes.descriptors.insert(self.gsi, Descriptor { msi: Some(msi), heard: true });
        }
        Ok(())
    }

    fn waits(&self) -> bool {
        let heard = lock(&self.routes).descriptors.get(&self.gsi).is_some_and(|it| it.heard);
        // SAFETY: as in `descriptor`.
        let event = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&self.event)) };
        let mut polled = [PollFd::new(&event, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !heard && poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Irqfd {
    fn drop(&mut self) {
        let mut routes = lock(&self.routes);
        let before = routes.descriptors.remove(&self.gsi).unwrap_or_default();
        if before.heard
            && let Err(error) = self.ignore()
        {
            tracing::warn!(gsi = self.gsi, %error, "KVM still listens to an interrupt's descriptor");
        }
        if before.msi.is_some()
            && let Err(error) = routes.apply(&self.vm)
        {
            tracing::warn!(gsi = self.gsi, %error, "stale interrupt route");
        }
    }
}

/// The table is valid after every statement that changes it, so a panic elsewhere spoils nothing.
pub(super) fn lock(routes: &Mutex<Routes>) -> std::sync::MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_pins_and_new_descriptors_have_no_route() {
        let msi = Msi { address: 0x1_fee0_1000, data: 0x8031 };
        let routes = Routes {
            pins: vec![None, Some(msi)],
            descriptors: BTreeMap::from([
                (24, Descriptor::default()),
                (25, Descriptor { msi: Some(msi), heard: true }),
            ]),
        };
        let entries = routes.entries();
        let gsis: Vec<u32> = entries.iter().map(|entry| entry.gsi).collect();
        assert_eq!(gsis, [1, 25]);
        // SAFETY: every entry of this table is an MSI route.
        let route = unsafe { entries[0].u.msi };
        assert_eq!((route.address_lo, route.address_hi), (0xfee0_1000, 1));
    }
}

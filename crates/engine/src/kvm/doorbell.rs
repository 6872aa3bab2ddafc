//! Guest writes that signal a descriptor inside the kernel (KVM_IOEVENTFD).

use crate::{Doorbell, DoorbellAddress, EngineError};
use kvm_bindings::{
    kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio,
};
use kvm_ioctls::VmFd;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vmm_sys_util::{ioctl::ioctl_with_ref, ioctl_iow_nr};

// `kvm-ioctls` can express a width only together with a value to match.
ioctl_iow_nr!(KVM_IOEVENTFD, kvm_bindings::KVMIO, 0x79, kvm_bindings::kvm_ioeventfd);

/// A doorbell in place; dropping it takes it away.
pub(super) struct Ioeventfd {
    vm: Arc<VmFd>,
    event: OwnedFd,
    request: kvm_ioeventfd,
}

impl Ioeventfd {
    pub(super) fn new(
        vm: Arc<VmFd>,
        doorbell: Doorbell,
        event: BorrowedFd<'_>,
    ) -> Result<Self, EngineError> {
        let event =
            event.try_clone_to_owned().map_err(|source| EngineError::call("dup", source))?;
        let request = request(doorbell, event.as_raw_fd());
        call(&vm, &request)?;
        Ok(Self { vm, event, request })
    }
}

fn request(doorbell: Doorbell, event: i32) -> kvm_ioeventfd {
    let mut flags = 0;
    let addr = match doorbell.address {
        DoorbellAddress::Port(port) => {
            flags |= 1 << kvm_ioeventfd_flag_nr_pio;
            port.into()
        }
        DoorbellAddress::Memory(address) => address.0,
    };
    if doorbell.value.is_some() {
        flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
    }
    kvm_ioeventfd {
        datamatch: doorbell.value.unwrap_or(0),
        addr,
        len: doorbell.width.into(),
        fd: event,
        flags,
        pad: [0; 36],
    }
}

fn call(vm: &VmFd, request: &kvm_ioeventfd) -> Result<(), EngineError> {
    // SAFETY: `vm` is a KVM VM descriptor and KVM reads one `kvm_ioeventfd` from the reference.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), request) } {
        0 => Ok(()),
        _ => Err(EngineError::call("KVM_IOEVENTFD", io::Error::last_os_error())),
    }
}

impl Drop for Ioeventfd {
    fn drop(&mut self) {
        let request = kvm_ioeventfd {
            flags: self.request.flags | 1 << kvm_ioeventfd_flag_nr_deassign,
            fd: self.event.as_raw_fd(),
            ..self.request
        };
        if let Err(error) = call(&self.vm, &request) {
            tracing::warn!(%error, "doorbell stays in place");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::GuestPhysical;

    #[test]
    fn a_doorbell_without_a_value_matches_any() {
        let doorbell = Doorbell {
            address: DoorbellAddress::Memory(GuestPhysical(0xc000_0000)),
            width: 2,
            value: None,
        };
        let any = request(doorbell, 3);
        assert_eq!((any.flags, any.len, any.addr), (0, 2, 0xc000_0000));
        let one = request(
            Doorbell { address: DoorbellAddress::Port(0x510), value: Some(7), ..doorbell },
            3,
        );
        assert_eq!((one.flags, one.datamatch, one.addr), (3, 7, 0x510));
    }
}

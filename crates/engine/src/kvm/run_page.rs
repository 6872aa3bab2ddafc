//! Reading an exit out of the run page.

use crate::{Exit, FailureFacts};
use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IO_IN, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

/// What KVM_RUN left in the run page. `size` is the length of the whole mapping that `page` starts.
pub(super) fn decode(page: &mut kvm_run, size: usize) -> Exit<'_> {
    match page.exit_reason {
        KVM_EXIT_IO => port(page, size),
        KVM_EXIT_MMIO => {
            // SAFETY: exit_reason says that KVM filled `mmio`.
            let mmio = unsafe { &mut page.__bindgen_anon_1.mmio };
            let length = (mmio.len as usize).min(mmio.data.len());
            let (address, data) = (mmio.phys_addr, &mut mmio.data[..length]);
            if mmio.is_write == 0 {
                Exit::MemoryRead { address, data }
            } else {
                Exit::MemoryWrite { address, data }
            }
        }
        KVM_EXIT_HLT => Exit::Halt,
        KVM_EXIT_INTR => Exit::Interrupted,
        KVM_EXIT_IRQ_WINDOW_OPEN => Exit::InterruptWindow,
        KVM_EXIT_IOAPIC_EOI => Exit::EndOfInterrupt {
            // SAFETY: exit_reason says that KVM filled `eoi`.
            vector: unsafe { page.__bindgen_anon_1.eoi.vector },
        },
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        _ => Exit::Failure(failure(page)),
    }
}

fn port(page: &mut kvm_run, size: usize) -> Exit<'_> {
    // SAFETY: exit_reason says that KVM filled `io`.
    let io = unsafe { page.__bindgen_anon_1.io };
    let length = usize::from(io.size) * io.count as usize;
    let start = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
    if start.checked_add(length).is_none_or(|end| end > size || start < size_of::<kvm_run>()) {
        return Exit::Failure(FailureFacts {
            what: "KVM_EXIT_IO outside the run page".to_owned(),
            codes: vec![io.data_offset, io.count.into(), io.size.into()],
        });
    }
    // SAFETY: just checked to lie inside the mapping and behind `kvm_run`, so nothing else refers
    // to these bytes while `page` is borrowed.
    let data = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::from_mut(page).cast::<u8>().add(start), length)
    };
    let (port, width) = (io.port, io.size);
    if u32::from(io.direction) == KVM_EXIT_IO_IN {
        Exit::PortRead { port, width, data }
    } else {
        Exit::PortWrite { port, width, data }
    }
}

fn failure(page: &kvm_run) -> FailureFacts {
    match page.exit_reason {
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: exit_reason says that KVM filled `fail_entry`.
            let entry = unsafe { page.__bindgen_anon_1.fail_entry };
            FailureFacts {
                what: "KVM_EXIT_FAIL_ENTRY: the processor refused to enter the guest (hardware \
                       reason, host CPU)"
                    .to_owned(),
                codes: vec![entry.hardware_entry_failure_reason, entry.cpu.into()],
            }
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: exit_reason says that KVM filled `internal`.
            let internal = unsafe { page.__bindgen_anon_1.internal };
            let known = (internal.ndata as usize).min(internal.data.len());
            FailureFacts {
                what: format!("KVM_EXIT_INTERNAL_ERROR/{}", internal_error(internal.suberror)),
                codes: internal.data[..known].to_vec(),
            }
        }
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: exit_reason says that KVM filled `system_event`.
            let event = unsafe { page.__bindgen_anon_1.system_event };
            FailureFacts {
                what: "KVM_EXIT_SYSTEM_EVENT (type)".to_owned(),
                codes: vec![event.type_.into()],
            }
        }
        reason => FailureFacts {
            what: "a KVM exit this engine does not ask for (reason)".to_owned(),
            codes: vec![reason.into()],
        },
    }
}

/// The sub-errors of linux/kvm.h.
fn internal_error(suberror: u32) -> String {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            "emulation: KVM cannot emulate an instruction of the guest".to_owned()
        }
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions".to_owned(),
        KVM_INTERNAL_ERROR_DELIVERY_EV => "event delivery".to_owned(),
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit reason".to_owned(),
        other => format!("sub-error {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure_of(page: &mut kvm_run) -> FailureFacts {
        match decode(page, size_of::<kvm_run>()) {
            Exit::Failure(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_internal_error_names_its_kind_and_keeps_its_codes() {
        let mut page = kvm_run { exit_reason: KVM_EXIT_INTERNAL_ERROR, ..Default::default() };
        page.__bindgen_anon_1.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
        page.__bindgen_anon_1.internal.ndata = 2;
        // SAFETY: plain numbers; `page` is zeroed.
        unsafe { page.__bindgen_anon_1.internal.data[1] = 0xf4 };
        let facts = failure_of(&mut page);
        assert!(facts.what.contains("emulation"), "{facts:?}");
        assert_eq!(facts.codes, [0, 0xf4]);
    }

    #[test]
    fn a_count_of_codes_beyond_the_page_is_cut() {
        let mut page = kvm_run { exit_reason: KVM_EXIT_INTERNAL_ERROR, ..Default::default() };
        page.__bindgen_anon_1.internal.suberror = 77;
        page.__bindgen_anon_1.internal.ndata = u32::MAX;
        let facts = failure_of(&mut page);
        assert_eq!(facts.codes.len(), 16);
        assert!(facts.what.contains("77"));
    }

    #[test]
    fn port_data_outside_the_run_page_is_refused() {
        let mut page = kvm_run { exit_reason: KVM_EXIT_IO, ..Default::default() };
        let io = &raw mut page.__bindgen_anon_1;
        // SAFETY: `io` points into `page`, which is alive.
        unsafe {
            (*io).io.size = 4;
            (*io).io.count = u32::MAX;
            (*io).io.data_offset = 4096;
        }
        assert!(failure_of(&mut page).what.contains("outside"));
    }
}

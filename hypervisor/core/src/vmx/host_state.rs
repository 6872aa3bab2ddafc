//! What an exit loads: the core's own state on this processor (SDM 3C 25.5, 28.5).

use x86::vmx::vmcs::host;

use crate::cpu::{control, descriptors, msr};

/// Fields with the core's state on one processor, for a VMCS that comes to it.
pub(super) fn own() -> [(u32, u64); 3] {
    let [gdt, task] = descriptors::loaded();
    [(host::GDTR_BASE, gdt), (host::TR_BASE, task), (host::GS_BASE, msr::read(msr::GS_BASE))]
}

/// Fields that are the same on every processor. RSP and RIP are the world switch's; FS and SYSENTER the
/// core does not use.
pub(super) fn common() -> [(u32, u64); 17] {
    let data = u64::from(descriptors::DATA);
    [
        (host::CR0, control::cr0()),
        (host::CR3, control::cr3()),
        (host::CR4, control::cr4()),
        (host::CS_SELECTOR, u64::from(descriptors::CODE)),
        (host::SS_SELECTOR, data),
        (host::DS_SELECTOR, data),
        (host::ES_SELECTOR, data),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, u64::from(descriptors::TASK)),
        (host::FS_BASE, 0),
        (host::IDTR_BASE, descriptors::idt_base()),
        (host::IA32_PAT_FULL, msr::read(msr::PAT)),
        (host::IA32_EFER_FULL, msr::read(msr::EFER)),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
    ]
}

//! The world switch: into the guest and, at its exit, back.
//!
//! `unsafe` here: VMRESUME and VMLAUNCH.
#![allow(unsafe_code)]

use core::arch::naked_asm;

/// What the world switch reads and writes. The assembly knows the layout.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Registers {
    /// RAX, RCX, ... as [`GeneralRegisters`](hypervisor_abi::GeneralRegisters) orders them; RSP is the
    /// VMCS's.
    pub(crate) general: [u64; 16],
    /// HOST_RSP as the VMCS has it, to write it only when the stack has moved; 0: not yet.
    pub(super) host_rsp: u64,
}

const _: () = assert!(core::mem::offset_of!(Registers, host_rsp) == 0x80);

/// How the world switch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(dead_code, reason = "the assembly makes the values")]
pub(super) enum Ended {
    /// The guest ran and exited, or the entry failed with an exit reason.
    Exit = 0,
    /// The processor refused the VMCS: VMfailValid.
    Refused = 1,
    /// There is no current VMCS: VMfailInvalid.
    NoCurrentVmcs = 2,
    /// An NMI came first: nothing of the guest ran.
    Nmi = 3,
}

/// Loads the guest's registers, runs it, saves them.
///
/// NMIs reach the core until the very VMRESUME. One must not wait for the guest's next exit, so the
/// entry is given up when an NMI has been counted (gs:16), and the NMI handler sends one that comes
/// after that check to the same place: everything from `core_entry_guarded` to its end can be given
/// up without a trace.
///
/// A VMRESUME that fails falls through to VMLAUNCH: no flag says whether the VMCS was launched.
///
/// # Safety
/// The current VMCS is set up, with the guest's translation keeping it off the core's memory, and
/// `registers` belong to it.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn world_switch(registers: &mut Registers) -> Ended {
    naked_asm!(
        ".irp register, rbx, rbp, r12, r13, r14, r15, rdi",
        "push \\register",
        ".endr",
        "cmp rsp, [rdi + 0x80]",
        "je 2f",
        "mov [rdi + 0x80], rsp",
        "mov edx, {host_rsp}",
        "vmwrite rdx, rsp",
        "lea rcx, [rip + 5f]",
        "mov edx, {host_rip}",
        "vmwrite rdx, rcx",
        "2:",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 0x08]",
        "mov rdx, [rdi + 0x10]",
        "mov rbx, [rdi + 0x18]",
        "mov rbp, [rdi + 0x28]",
        "mov rsi, [rdi + 0x30]",
        ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
        "mov r\\number, [rdi + 8 * \\number]",
        ".endr",
        "mov rdi, [rdi + 0x38]",
        ".global core_entry_guarded",
        "core_entry_guarded:",
        "cmp dword ptr gs:[16], 0",
        "jne 3f",
        "vmresume",
        "vmlaunch",
        ".global core_entry_guarded_end",
        "core_entry_guarded_end:",
        // Refused: the registers still are the guest's as they were, there is nothing to save.
        "mov eax, {no_vmcs}",
        "mov ecx, {refused}",
        "cmovnc eax, ecx",
        "pop rdi",
        "jmp 6f",
        ".global core_entry_given_up",
        "core_entry_given_up:",
        "3:",
        "mov eax, {nmi}",
        "pop rdi",
        "jmp 6f",
        // The exit: RSP is as at the entry, RFLAGS is 2.
        "5:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rax",
        "mov [rdi + 0x08], rcx",
        "mov [rdi + 0x10], rdx",
        "mov [rdi + 0x18], rbx",
        "mov [rdi + 0x28], rbp",
        "mov [rdi + 0x30], rsi",
        "pop qword ptr [rdi + 0x38]",
        ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
        "mov [rdi + 8 * \\number], r\\number",
        ".endr",
        "pop rdi",
        "xor eax, eax",
        "6:",
        ".irp register, r15, r14, r13, r12, rbp, rbx",
        "pop \\register",
        ".endr",
        // Nothing of the guest's stays in registers a later mistake could use as addresses.
        ".irp register, ecx, edx, esi, edi, r8d, r9d, r10d, r11d",
        "xor \\register, \\register",
        ".endr",
        "ret",
        host_rsp = const x86::vmx::vmcs::host::RSP,
        host_rip = const x86::vmx::vmcs::host::RIP,
        no_vmcs = const Ended::NoCurrentVmcs as u32,
        refused = const Ended::Refused as u32,
        nmi = const Ended::Nmi as u32,
    )
}

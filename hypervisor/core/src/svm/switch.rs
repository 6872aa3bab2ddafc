//! The world switch of SVM.
#![allow(unsafe_code)]

use core::arch::naked_asm;

/// Loads the guest's registers, runs it, saves them. The global interrupt flag is clear before and
/// after; RFLAGS.IF is set, so that physical interrupts reach a guest with virtual masking as exits.
///
/// # Safety
/// Both control blocks are valid and this processor runs SVM.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn world_switch(guest: u64, host: u64, general: &mut [u64; 16]) {
    naked_asm!(
        ".irp register, rbx, rbp, r12, r13, r14, r15, rsi, rdx",
        "push \\register",
        ".endr",
        "mov rax, rdi",
        "mov rcx, [rdx + 0x08]",
        "mov rbx, [rdx + 0x18]",
        "mov rbp, [rdx + 0x28]",
        "mov rsi, [rdx + 0x30]",
        "mov rdi, [rdx + 0x38]",
        ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
        "mov r\\number, [rdx + 8 * \\number]",
        ".endr",
        "mov rdx, [rdx + 0x10]",
        "vmload rax",
        "vmrun rax",
        // RAX and RSP are the core's again.
        "vmsave rax",
        "pop rax",
        "mov [rax + 0x08], rcx",
        "mov [rax + 0x10], rdx",
        "mov [rax + 0x18], rbx",
        "mov [rax + 0x28], rbp",
        "mov [rax + 0x30], rsi",
        "mov [rax + 0x38], rdi",
        ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
        "mov [rax + 8 * \\number], r\\number",
        ".endr",
        // FS, GS, TR, LDTR and the system-call registers of the core.
        "pop rax",
        "vmload rax",
        ".irp register, r15, r14, r13, r12, rbp, rbx",
        "pop \\register",
        ".endr",
        // Nothing of the guest's stays in registers a later mistake could use as addresses.
        ".irp register, ecx, edx, esi, edi, r8d, r9d, r10d, r11d",
        "xor \\register, \\register",
        ".endr",
        "ret",
    )
}

# The core's exception entries. A frame as `exceptions::Frame` has it is built on the stack.

.section .text.exceptions, "ax"
.balign 4096
# Entries of 16 bytes, one for each exception and a last one for all other vectors. Error codes come with
# 8, 10 to 14, 17, 21, 29 and 30.
.global exception_entries
exception_entries:
.irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32
.balign 16
    .if \vector == 2
    jmp exception_nmi
    .endif
    .if ((0x60227d00 >> \vector) & 1) == 0
    push $0
    .endif
    push $\vector
    jmp exception_common
.endr

exception_common:
    .irp register, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    push %\register
    .endr
    mov %rsp, %rdi
    cld
    call core_exception
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
    pop %\register
    .endr
    add $16, %rsp
    iretq

# NMI: kicks and foreign ones alike leave a mark in the processor's own page (gs:16, `nmis`). One that
# comes between an idle loop's check and its HLT must not be slept through: it is sent past the HLT.
# One that comes between the check of the VMX world switch and its entry must not wait for the guest's
# next exit: it is sent to where the entry is given up.
.balign 16
exception_nmi:
    incl %gs:16
    push %rax
    lea idle_start(%rip), %rax
    cmp %rax, 8(%rsp)
    jb 1f
    lea idle_end(%rip), %rax
    cmp %rax, 8(%rsp)
    jae 1f
    mov %rax, 8(%rsp)
    jmp 2f
1:  lea core_entry_guarded(%rip), %rax
    cmp %rax, 8(%rsp)
    jb 2f
    lea core_entry_guarded_end(%rip), %rax
    cmp %rax, 8(%rsp)
    jae 2f
    lea core_entry_given_up(%rip), %rax
    mov %rax, 8(%rsp)
2:  pop %rax
    iretq

# idle(word: *const u32): halts until *word is not 0. Interrupts other than NMI are off.
.balign 16
.global core_idle
core_idle:
idle_start:
    cmpl $0, (%rdi)
    jne idle_end
    hlt
idle_end:
    ret

# try_rdmsr(index, *mut u64) -> 1 when the register exists. The faulting addresses are known to
# core_exception.
.balign 16
.global core_try_rdmsr
core_try_rdmsr:
    mov %edi, %ecx
.global try_rdmsr_at
try_rdmsr_at:
    rdmsr
    shl $32, %rdx
    or %rdx, %rax
    mov %rax, (%rsi)
    mov $1, %eax
    ret

# try_wrmsr(index, value) -> 1 when the processor took it.
.balign 16
.global core_try_wrmsr
core_try_wrmsr:
    mov %edi, %ecx
    mov %esi, %eax
    mov %rsi, %rdx
    shr $32, %rdx
.global try_wrmsr_at
try_wrmsr_at:
    wrmsr
    mov $1, %eax
    ret
.global try_failed
try_failed:
    xor %eax, %eax
    ret

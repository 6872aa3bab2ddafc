# Entries of all vectors, and attempts: code that is run with given registers and may fault.

.section .text
.code64
.balign 16
.global trap_entries
trap_entries:
.set vector, 0
.rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
.endr

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call hostile_trap
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

.macro load_registers
    mov 0x00(%rsi), %rax
    mov 0x08(%rsi), %rcx
    mov 0x10(%rsi), %rdx
    mov 0x18(%rsi), %rbx
    mov 0x28(%rsi), %rbp
    mov 0x38(%rsi), %rdi
    mov 0x40(%rsi), %r8
    mov 0x48(%rsi), %r9
    mov 0x50(%rsi), %r10
    mov 0x58(%rsi), %r11
    mov 0x60(%rsi), %r12
    mov 0x68(%rsi), %r13
    mov 0x70(%rsi), %r14
    mov 0x78(%rsi), %r15
    mov 0x30(%rsi), %rsi
.endm

# attempt_kernel(code, registers, slot, flags): calls `code` with `registers`, which it changes, with interrupts on if
# `flags` (those of RFLAGS) say so. 0 when the code returned, 1 when it faulted; the slot holds RSP meanwhile. RFLAGS are
# the caller's again.
.global attempt_kernel
attempt_kernel:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushf
    push %rsi
    push %rdi
    push %rdx
    mov %rsp, (%rdx)
    test $0x200, %ecx
    jz 1f
    sti
1:  load_registers
    call *8(%rsp)
    xchg %rsi, 16(%rsp)
    mov %rax, 0x00(%rsi)
    mov %rcx, 0x08(%rsi)
    mov %rdx, 0x10(%rsi)
    mov %rbx, 0x18(%rsi)
    mov %rbp, 0x28(%rsi)
    mov %rdi, 0x38(%rsi)
    mov %r8, 0x40(%rsi)
    mov %r9, 0x48(%rsi)
    mov %r10, 0x50(%rsi)
    mov %r11, 0x58(%rsi)
    mov %r12, 0x60(%rsi)
    mov %r13, 0x68(%rsi)
    mov %r14, 0x70(%rsi)
    mov %r15, 0x78(%rsi)
    mov 16(%rsp), %rax
    mov %rax, 0x30(%rsi)
    xor %eax, %eax
    jmp 1f
.global attempt_faulted
attempt_faulted:
    mov $1, %eax
    # A tick must not find an attempt that is over: one that comes twice on the stack of its own would come for ever.
1:  cli
    mov (%rsp), %rdx
    movq $0, (%rdx)
    cld
    add $24, %rsp
    popf
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

# attempt_user(code, registers, slot, stack, flags): the same in user mode, from which only a fault leads
# back.
.global attempt_user
attempt_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushf
    push %rsi
    push %rdi
    push %rdx
    mov %rsp, (%rdx)
    push $0x23
    push %rcx
    push %r8
    push $0x2b
    push %rdi
    load_registers
    iretq

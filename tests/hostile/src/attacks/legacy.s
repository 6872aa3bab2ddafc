# Attacks in 32-bit protected mode without paging.

.section .text
.code64
# leave_long_mode(go_on)
.global leave_long_mode
leave_long_mode:
    cli
    mov %edi, %ebx
    lgdt legacy_gdt_pointer
    lidt legacy_idt_pointer
    push $0x18
    push $1f
    lretq
.code32
1:  mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x100, %eax
    wrmsr
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $legacy_stack_top, %esp
    # Handlers of the IDT: their halves are put together here.
    mov $legacy_idt, %edi
    mov $legacy_handlers, %esi
    mov $32, %ecx
2:  lodsl
    mov %ax, (%edi)
    movw $0x18, 2(%edi)
    movw $0x8e00, 4(%edi)
    shr $16, %eax
    mov %ax, 6(%edi)
    add $8, %edi
    dec %ecx
    jnz 2b
    # Task states get their bases.
    mov $legacy_task_1, %eax
    mov $legacy_gdt + 0x30, %edi
    call set_base
    mov $legacy_task_2, %eax
    mov $legacy_gdt + 0x38, %edi
    call set_base
    mov $legacy_task_3, %eax
    mov $legacy_gdt + 0x40, %edi
    call set_base
    mov $0x30, %eax
    ltr %ax
    jmp *%ebx

set_base:
    mov %ax, 2(%edi)
    shr $16, %eax
    mov %al, 4(%edi)
    mov %ah, 7(%edi)
    ret

.macro print text
    mov $\text, %eax
    out %eax, $0xea
.endm

.global legacy_tasks
legacy_tasks:
    # By a jump.
    movl $switched, resume
    ljmp $0x38, $0
switched:
    mov $legacy_stack_top, %esp
    # By a task gate: vector 0x1f.
    movl $gated, resume
    movl $0x00400000, legacy_idt + 0x1f * 8
    movl $0x0000e500, legacy_idt + 0x1f * 8 + 4
    int $0x1f
gated:
    # By every exception.
    mov $legacy_stack_top, %esp
    mov $legacy_idt, %edi
    mov $32, %ecx
1:  movl $0x00400000, (%edi)
    movl $0x0000e500, 4(%edi)
    add $8, %edi
    dec %ecx
    jnz 1b
    print every_exception
    ud2
    hlt

# The tasks that are switched to, where that is done.
task_2:
    print switched_by_jump
    jmp *resume
task_3:
    print switched_by_gate
    jmp *resume

.global legacy_alignment
legacy_alignment:
    # Alignment checks on; the handler of #AC runs in ring 3 as well, on a stack that is not aligned.
    mov %cr0, %eax
    or $0x40000, %eax
    mov %eax, %cr0
    mov $misaligned, %eax
    mov %ax, legacy_idt + 17 * 8
    movw $0x2b, legacy_idt + 17 * 8 + 2
    movw $0xee00, legacy_idt + 17 * 8 + 4
    shr $16, %eax
    mov %ax, legacy_idt + 17 * 8 + 6
    movw $0xee00, legacy_idt + 3 * 8 + 4
    movl $legacy_stack_top, legacy_task_1 + 4
    movl $0x10, legacy_task_1 + 8
    push $0x23
    push $legacy_user_stack_top - 1
    push $0x40002
    push $0x2b
    push $1f
    iret
1:  mov $0x23, %eax
    mov %eax, %ds
    mov legacy_user_stack + 1, %eax
    # No alignment checks on this processor: out of ring 3.
    int3
misaligned:
    jmp misaligned

# Faults and traps: what the core answers to task switches, and the end of the others.
on_protection:
    print refused
    mov $legacy_stack_top, %esp
    jmp *resume
on_breakpoint:
    print unchecked
    mov $0, %al
    out %al, $0xec
1:  hlt
    jmp 1b
on_other:
    print unexpected
    mov $99, %al
    out %al, $0xec
1:  hlt
    jmp 1b

.code64
.section .rodata
refused:          .asciz "tasks: refused with #GP\n"
switched_by_jump: .asciz "tasks: switched by a jump\n"
switched_by_gate: .asciz "tasks: switched by a gate\n"
every_exception:  .asciz "tasks: every exception is a task\n"
unchecked:        .asciz "alignment: not checked here\n"
unexpected:       .asciz "FAILED: an exception in 32-bit mode\n"

.section .data
.balign 8
# Null, -, data, 32-bit code, user data, user code, three tasks.
legacy_gdt:
    .quad 0
    .quad 0
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x0000890000000067
    .quad 0x0000890000000067
    .quad 0x0000890000000067
legacy_gdt_pointer:
    .short 71
    .quad legacy_gdt
legacy_idt_pointer:
    .short 255
    .quad legacy_idt
.balign 4
resume: .long 0
legacy_handlers:
    .long on_other, on_other, on_other, on_breakpoint
    .rept 9
    .long on_other
    .endr
    .long on_protection
    .rept 18
    .long on_other
    .endr
# 32-bit task states (SDM 3A 8.2.1): CR3 at 28, EIP, EFLAGS at 36, ESP at 56, selectors from 72 on.
.macro task entry
    .skip 4
    .long legacy_stack_top, 0x10
    .skip 20
    .long \entry, 2
    .skip 16
    .long legacy_stack_top
    .skip 12
    .long 0x10, 0x18, 0x10, 0x10, 0x10, 0x10, 0
    .short 0, 0x68
.endm
legacy_task_1:
    task 0
legacy_task_2:
    task task_2
legacy_task_3:
    task task_3

.section .bss
.balign 16
legacy_idt: .skip 256
legacy_user_stack: .skip 256
legacy_user_stack_top:
.skip 4096
legacy_stack_top:

# exits: what leaving the guest costs, in ticks of the time-stamp counter. Prints a line `figure NAME TICKS`
# for each kind of exit: the least of several batches' averages, less an empty loop's.
#
# Where ticks are instructions (QEMU -icount shift=0) the figures repeat exactly. It is a Multiboot 1
# image too, so that QEMU starts the same file: there text comes out of port 0xe9 and port 0xec ends it.
.include "common.inc"

.equ PML4,       0x1000
.equ PDPT,       0x2000
.equ PD_LOW,     0x3000
.equ PD_HIGH,    0x4000         # 3 to 4 GiB
.equ IDT,        0x5000
.equ AP_STACK,   0x6800
.equ STACK,      0x7c00
.equ AP_PAGE,    0x08           # the entry of the other processor lies at 0x8000

.equ BATCHES,    8
.equ ROUNDS,     64             # in a batch
.equ DELAY,      1000000        # ticks the timer is set ahead
.equ PORT,       0x80           # a port that holds a byte and does nothing
.equ DEVICE,     0xfed40000     # an address where no machine here has a device
.equ CMOS_PROCESSORS, 0x5f

.equ APIC_BASE,  0x1b
.equ DEADLINE,   0x6e0
.equ EOI,        0x80b          # x2APIC registers (SDM 3A 11.12.1.2)
.equ SPURIOUS,   0x80f
.equ COMMAND,    0x830
.equ LVT_TIMER,  0x832
.equ SELF_IPI,   0x83f
.equ INIT,       0x4500
.equ STARTUP,    0x4600

.equ VECTOR_SELF,  0x40
.equ VECTOR_TIMER, 0x41
.equ VECTOR_PING,  0x42
.equ VECTOR_PONG,  0x43

    image
    enter_protected_mode bootstrap, STACK

    .balign 4
    # Multiboot 3.1: addresses are in the header, so the file need not be ELF.
multiboot:
    .long 0x1badb002
    .long 1 << 16
    .long -(0x1badb002 + (1 << 16))
    .long multiboot
    .long _start
    .long 0
    .long 0
    .long from_multiboot

    .code32
from_multiboot:
    cli
    cld
    lgdt [gdt_pointer]
    ljmp 0x08, offset 1f
1:  mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK
    jmp bootstrap

# Where the other processor starts: real mode, CS:IP = 0x0800:0000.
    .org 0x400
    .code16
ap_entry:
    cli
    cld
    xor ax, ax
    mov ds, ax
    enter_protected_mode ap_protected, AP_STACK

ap_protected:
    mov ebx, offset ap_main
    jmp go_long

bootstrap:
    mov al, 0xff                # both 8259 are silent
    out 0x21, al
    out 0xa1, al
    mov edi, PML4
    xor eax, eax
    mov ecx, 5 * 4096 / 4
    rep stosd
    # The first 2 MiB and the 2 MiB with the device, one to one by large pages (SDM 3A 4.5).
    mov dword ptr [PML4], PDPT | 3
    mov dword ptr [PDPT], PD_LOW | 3
    mov dword ptr [PDPT + 3 * 8], PD_HIGH | 3
    mov dword ptr [PD_LOW], 0x83
    mov dword ptr [PD_HIGH + (DEVICE >> 21 & 511) * 8], DEVICE & 0xffe00000 | 0x9b
    mov ebx, offset main

# Turns paging and long mode on and goes on at EBX.
go_long:
    mov eax, PML4
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5              # PAE
    mov cr4, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 1 << 8              # LME
    wrmsr
    mov eax, cr0
    or eax, 1 << 31             # PG
    mov cr0, eax
    ljmp 0x18, offset 1f
    .code64
1:  lidt [idt_pointer]
    # The local APIC in x2APIC mode, enabled.
    mov ecx, APIC_BASE
    rdmsr
    or eax, 3 << 10
    wrmsr
    mov ecx, SPURIOUS
    mov eax, 0x1ff
    call write
    mov ebx, ebx
    jmp rbx

# Writes EAX to the MSR in ECX. Changes EDX.
write:
    xor edx, edx
    wrmsr
    ret

# A 64-bit interrupt gate for `vector` to `handler` (SDM 3A 7.14.1).
.macro gate64 vector, handler
    mov dword ptr [IDT + \vector * 16], offset \handler + 0x180000
    mov dword ptr [IDT + \vector * 16 + 4], 0x8e00
.endm

# RAX = the time-stamp counter. Changes RDX.
.macro now
    rdtsc
    shl rdx, 32
    or rax, rdx
.endm

.macro figure name, body
    mov esi, offset \name
    mov edi, offset \body
    call measure
.endm

main:
    gate64 VECTOR_SELF, self_arrived
    gate64 VECTOR_TIMER, timer_arrived
    gate64 VECTOR_PING, ping_arrived
    gate64 VECTOR_PONG, pong_arrived

    mov edi, offset empty
    call least
    mov r15, rax                # of all batches with nothing in them

    figure cpuid_is, do_cpuid
    # CPUID 0: AMD's and Hygon's processors have VMMCALL.
    xor eax, eax
    cpuid
    mov edi, offset do_vmmcall
    cmp ebx, 0x68747541         # "Auth"
    je 1f
    cmp ebx, 0x6f677948         # "Hygo"
    je 1f
    mov edi, offset do_vmcall
1:  mov esi, offset hypercall_is
    call measure
    figure rdtsc_is, do_rdtsc
    figure rdmsr_is, do_rdmsr
    figure eoi_is, do_eoi
    figure self_ipi_is, do_self_ipi
    figure port_is, do_port
    figure mmio_is, do_mmio
    # The self-IPI that was left pending.
    sti
    nop
    cli
    call taken
    call timer
    call ipi
    exit 0

empty:
    ret
do_cpuid:
    xor eax, eax
    xor ecx, ecx
    cpuid
    ret
do_vmmcall:
    mov eax, 1                  # Version; KVM has a call with this number too
    vmmcall
    ret
do_vmcall:
    mov eax, 1
    vmcall
    ret
do_rdtsc:
    rdtsc
    ret
do_rdmsr:
    mov ecx, APIC_BASE
    rdmsr
    ret
do_eoi:
    mov ecx, EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    ret
do_self_ipi:
    mov ecx, SELF_IPI
    mov eax, VECTOR_SELF
    xor edx, edx
    wrmsr
    ret
do_port:
    in al, PORT
    ret
do_mmio:
    mov eax, dword ptr [DEVICE]
    ret

# Prints the figure called ESI: what a call of EDI costs beyond a call of `empty`.
measure:
    push rsi
    call least
    sub rax, r15
    pop rsi

# Prints RAX / ROUNDS as the figure called ESI.
print:
    mov ecx, ROUNDS

# Prints RAX / RCX, rounded, as the figure called ESI.
print_average:
    mov rbx, rcx
    shr rcx, 1
    add rax, rcx
    jns 1f
    xor eax, eax
1:  xor edx, edx
    div rbx
    mov rbx, rax
    mov edx, offset figure_is
    call text
    mov edx, esi
    call text
    putchar ' '
    mov rax, rbx
    mov ebx, 10
    xor ecx, ecx
1:  xor edx, edx
    div rbx
    push rdx
    inc ecx
    test rax, rax
    jnz 1b
2:  pop rax
    add al, '0'
    out PUTCHAR, al
    dec ecx
    jnz 2b
    putchar '\n'
    ret

# Prints the string at EDX.
text:
    mov al, byte ptr [rdx]
    test al, al
    jz 1f
    out PUTCHAR, al
    inc edx
    jmp text
1:  ret

# RAX = the ticks of the shortest batch of calls of EDI.
least:
    mov r12d, edi
    mov r14d, BATCHES
    mov r10, -1
1:  mov r13d, ROUNDS
    now
    mov r11, rax
2:  call r12
    dec r13d
    jnz 2b
    now
    sub rax, r11
    cmp rax, r10
    cmovb r10, rax
    dec r14d
    jnz 1b
    mov rax, r10
    ret

# From sending a self-IPI to its handler, and the handler's end of interrupt.
taken:
    sti
    mov r14d, BATCHES
    mov r8, -1
    mov r9, -1
1:  mov r13d, ROUNDS
    xor r10d, r10d              # sent to taken
    xor r11d, r11d              # end of interrupt
2:  now
    mov rbx, rax
    mov ecx, SELF_IPI
    mov eax, VECTOR_SELF
    xor edx, edx
    xor ebp, ebp
    wrmsr
3:  test ebp, ebp
    jz 3b
    dec r13d
    jnz 2b
    cmp r10, r8
    cmovb r8, r10
    cmp r11, r9
    cmovb r9, r11
    dec r14d
    jnz 1b
    cli
    push r9
    mov rax, r8
    mov esi, offset self_ipi_taken_is
    call print
    pop rax
    mov esi, offset eoi_taken_is
    jmp print

self_arrived:
    now
    mov rbp, rax
    sub rax, rbx
    add r10, rax
    mov ecx, EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    now
    sub rax, rbp
    add r11, rax
    mov ebp, 1
    iretq

# From the moment the timer is due to the instruction behind HLT.
timer:
    mov eax, 1
    cpuid
    bt ecx, 24                  # TSC deadline (SDM 2A CPUID)
    jnc 2f
    mov ecx, LVT_TIMER
    mov eax, 2 << 17 | VECTOR_TIMER
    call write
    mov r8, -1
    mov r14d, BATCHES
1:  now
    add rax, DELAY
    mov rbx, rax
    mov rdx, rax
    shr rdx, 32
    mov ecx, DEADLINE
    wrmsr
    sti
    hlt
    cli
    now
    sub rax, rbx
    cmp rax, r8
    cmovb r8, rax
    dec r14d
    jnz 1b
    mov rax, r8
    mov ecx, 1
    mov esi, offset timer_is
    jmp print_average
2:  ret

# To the other processor and back: two IPIs to processors that are halted.
ipi:
    mov al, CMOS_PROCESSORS
    out 0x70, al
    in al, 0x71
    test al, al
    jz 5f
    mov eax, INIT
    call to_other
    mov eax, STARTUP | AP_PAGE
    call to_other
    mov eax, STARTUP | AP_PAGE
    call to_other
1:  pause
    cmp dword ptr [ready], 0
    je 1b
    mov r8, -1
    mov r14d, BATCHES * 4
2:  now
    mov rbx, rax
    mov dword ptr [ponged], 0
    mov eax, VECTOR_PING
    mov edx, 1
    mov ecx, COMMAND
    wrmsr
3:  sti
    hlt
    cli
    cmp dword ptr [ponged], 0
    je 3b
    now
    sub rax, rbx
    cmp rax, r8
    cmovb r8, rax
    dec r14d
    jnz 2b
    mov rax, r8
    mov ecx, 1
    mov esi, offset ipi_is
    jmp print_average
5:  ret

# Sends command EAX to the other processor and lets some time pass (SDM 3A 9.4.4).
to_other:
    mov edx, 1
    mov ecx, COMMAND
    wrmsr
    mov ecx, 20000
1:  pause
    dec ecx
    jnz 1b
    ret

ap_main:
    mov dword ptr [ready], 1
1:  sti
    hlt
    cli
    cmp dword ptr [pinged], 0
    je 1b
    mov dword ptr [pinged], 0
    mov eax, VECTOR_PONG
    xor edx, edx
    mov ecx, COMMAND
    wrmsr
    jmp 1b

ping_arrived:
    mov dword ptr [pinged], 1
    jmp timer_arrived
pong_arrived:
    mov dword ptr [ponged], 1
timer_arrived:
    push rax
    push rcx
    push rdx
    mov ecx, EOI
    xor eax, eax
    call write
    pop rdx
    pop rcx
    pop rax
    iretq

figure_is:         .asciz "figure "
cpuid_is:          .asciz "cpuid"
hypercall_is:      .asciz "hypercall"
rdtsc_is:          .asciz "rdtsc"
rdmsr_is:          .asciz "rdmsr"
eoi_is:            .asciz "eoi"
self_ipi_is:       .asciz "self_ipi"
port_is:           .asciz "port_read"
mmio_is:           .asciz "mmio_read"
self_ipi_taken_is: .asciz "self_ipi_taken"
eoi_taken_is:      .asciz "eoi_taken"
timer_is:          .asciz "timer_wake"
ipi_is:            .asciz "ipi_round_trip"

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x00af9a000000ffff    # 64-bit code
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
idt_pointer:
    .word 4095
    .quad IDT

    .balign 4
ready:    .long 0
pinged:   .long 0
ponged:   .long 0

# smp: the bootstrap processor wakes the others with INIT and SIPI; then all of them run at the same
# time, each one of three programs, print whole lines with their APIC id in front, and the
# bootstrap processor prints the sum of what they computed.
#
# The number of processors comes from CMOS cell 0x5f (processors beyond the first), where PC
# firmware for virtual machines finds it too.
.include "common.inc"

.equ LAPIC_ID,        0xfee00020
.equ LAPIC_SPURIOUS,  0xfee000f0
.equ LAPIC_ICR,       0xfee00300
.equ ICR_PENDING,     1 << 12
.equ INIT_OTHERS,     0x000c4500  # INIT to all but this one (SDM 3A 11.6.1)
.equ SIPI_OTHERS,     0x000c4600  # startup at the page in the low byte
.equ CMOS_PROCESSORS, 0x5f
.equ STACKS,          0x20000     # 4 KiB each, by APIC id; the lower half is a line buffer
.equ AP_PAGE,         0x08        # the entry of the others lies at 0x8000

    image
    enter_protected_mode bootstrap, STACKS + 0x1000

# Where the others start: real mode, CS:IP = 0x0800:0000.
    .org 0x400
    .code16
ap_entry:
    cli
    cld
    xor ax, ax
    mov ds, ax
    enter_protected_mode ap_protected, 0

ap_protected:
    mov eax, dword ptr [LAPIC_ID]
    shr eax, 24
    inc eax
    shl eax, 12
    lea esp, [eax + STACKS]
    call work
    lock inc dword ptr [finished]
1:  hlt
    jmp 1b

bootstrap:
    mov al, CMOS_PROCESSORS
    out 0x70, al
    in al, 0x71
    movzx eax, al
    mov dword ptr [others], eax
    test eax, eax
    jz 2f
    or dword ptr [LAPIC_SPURIOUS], 0x100
    mov eax, INIT_OTHERS
    call send
    mov eax, SIPI_OTHERS | AP_PAGE
    call send
    mov eax, SIPI_OTHERS | AP_PAGE
    call send
2:  call work
3:  pause
    mov eax, dword ptr [finished]
    cmp eax, dword ptr [others]
    jb 3b
    mov edi, STACKS
    mov esi, offset sum_is
    call copy
    mov eax, dword ptr [sum]
    call decimal
    call print_line
    exit 0

# Writes EAX to the interrupt command register and lets some time pass: real processors want a
# while between INIT and SIPI (SDM 3A 9.4.4).
send:
    mov dword ptr [LAPIC_ICR], eax
1:  test dword ptr [LAPIC_ICR], ICR_PENDING
    jnz 1b
    mov ecx, 20000
2:  pause
    dec ecx
    jnz 2b
    ret

# Runs the program this processor's APIC id selects and adds its result to the sum.
work:
    mov ebp, dword ptr [LAPIC_ID]
    shr ebp, 24
    mov eax, ebp
    xor edx, edx
    mov ecx, 3
    div ecx
    cmp edx, 1
    je multiplication
    ja matrix

# Counts to five, one line each; the result is the sum of the numbers.
counter:
    xor ebx, ebx
    mov edi, 1
1:  push edi
    mov esi, offset counter_is
    mov eax, edi
    call say
    pop edi
    add ebx, edi
    inc edi
    cmp edi, 5
    jbe 1b
    jmp report

# The sum of the multiplication table, 2 to 9 times 1 to 9.
multiplication:
    xor ebx, ebx
    mov ecx, 2
1:  mov edx, 1
2:  mov eax, ecx
    imul eax, edx
    add ebx, eax
    inc edx
    cmp edx, 9
    jbe 2b
    inc ecx
    cmp ecx, 9
    jbe 1b
    mov esi, offset multiplication_is
    mov eax, ebx
    call say
    jmp report

# The trace of the product of the 4x4 matrices a[i][j] = i + j and b[i][j] = i * j + 1.
matrix:
    xor ebx, ebx
    xor ecx, ecx                # i
1:  xor edx, edx                # k
2:  lea eax, [ecx + edx]        # a[i][k]
    mov esi, edx
    imul esi, ecx
    inc esi                     # b[k][i]
    imul eax, esi
    add ebx, eax
    inc edx
    cmp edx, 4
    jb 2b
    inc ecx
    cmp ecx, 4
    jb 1b
    mov esi, offset matrix_is
    mov eax, ebx
    call say

report:
    lock add dword ptr [sum], ebx
    ret

# Prints "[id] ", the text at ESI, EAX in decimal and a newline, as one line of this processor
# (EBP). Changes EAX, ECX, EDX, ESI, EDI.
say:
    mov edi, ebp
    shl edi, 12
    add edi, STACKS
    push eax
    mov byte ptr [edi], '['
    inc edi
    push esi
    mov eax, ebp
    call decimal
    mov word ptr [edi], 0x205d  # "] "
    add edi, 2
    pop esi
    call copy
    pop eax
    call decimal

# Ends the line in this processor's buffer at EDI and prints it in one go.
print_line:
    mov word ptr [edi], 0x000a
    mov eax, edi
    and eax, 0xfffff000
    out PUTS, eax
    ret

# Copies the string at ESI to EDI without its NUL. Changes AL.
copy:
    lodsb
    test al, al
    jz 1f
    stosb
    jmp copy
1:  ret

# Writes EAX in decimal to EDI. Changes EAX, ECX, EDX, ESI.
decimal:
    mov esi, 10
    xor ecx, ecx
1:  xor edx, edx
    div esi
    push edx
    inc ecx
    test eax, eax
    jnz 1b
2:  pop eax
    add al, '0'
    stosb
    dec ecx
    jnz 2b
    ret

counter_is:        .asciz "counter "
multiplication_is: .asciz "multiplication "
matrix_is:         .asciz "matrix "
sum_is:            .asciz "sum "

    .balign 4
others:   .long 0
finished: .long 0
sum:      .long 0

    flat_gdt

# nmi: sends itself a non-maskable interrupt through the local APIC, and a second one while it handles
# the first: that one must wait until the first handler returns, whatever exits happen meanwhile. Ends
# with the number of interrupts as status.
.include "common.inc"

.equ APIC, 0xfee00000
.equ SPURIOUS, APIC + 0xf0      # SDM 3A 11.9: bit 8 turns the APIC on
.equ COMMAND_LOW, APIC + 0x300  # SDM 3A 11.6.1
.equ COMMAND_HIGH, APIC + 0x310
.equ SEND_NMI, 0x4400           # NMI, asserted, to the destination

    image
    lidt [idt_pointer]
    enter_protected_mode protected, 0x7c00

protected:
    puts started
    xor ebp, ebp                # interrupts seen
    xor edi, edi                # handlers at work
    mov dword ptr [SPURIOUS], 0x1ff
    mov dword ptr [COMMAND_HIGH], 0
    mov dword ptr [COMMAND_LOW], SEND_NMI
    mov ecx, 1000
1:  pause
    loop 1b
    cmp ebp, 2
    jne unexpected
    test edi, edi
    jnz unexpected
    puts done
    mov eax, ebp
    out EXIT, al
2:  hlt
    jmp 2b

unexpected:
    puts wrong
    exit 255

on_nmi:
    inc edi
    cmp edi, 1
    jne unexpected              # one within the other
    inc ebp
    cmp ebp, 1
    jne 1f
    mov dword ptr [COMMAND_LOW], SEND_NMI
    push ebp
    mov ebp, 10
2:  xor eax, eax
    cpuid
    dec ebp
    jnz 2b
    pop ebp
    cmp ebp, 1
    jne unexpected
    puts inside
1:  dec edi
    iretd

    flat_gdt
    .balign 8
idt:
    .quad 0, 0
    gate on_nmi
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .long idt

started:
    .asciz "32-bit protected mode\n"
inside:
    .asciz "the second waits while the first is handled\n"
done:
    .asciz "both came, one after the other\n"
wrong:
    .asciz "unexpected\n"

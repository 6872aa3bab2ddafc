# pmode_simple: enters 32-bit protected mode with a GDT and an IDT of its own, prints from there and
# ends with status 0; any exception ends it with status 1.
.include "common.inc"
    image
    lidt [idt_pointer]
    enter_protected_mode protected, 0x7c00

protected:
    mov eax, cr0
    test al, 1
    jz unexpected
    puts message
    # Memory above one megabyte is out of reach of real mode.
    mov edi, 0x00110000
    mov dword ptr [edi], 0x5aa51234
    cmp dword ptr [edi], 0x5aa51234
    jne unexpected
    puts above
    exit 0

unexpected:
    puts failed
    exit 1

message: .asciz "32-bit protected mode\n"
above:   .asciz "memory above 1 MiB works\n"
failed:  .asciz "unexpected exception or value\n"

    flat_gdt
    .balign 8
idt:
    .rept 32
    gate unexpected
    .endr
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .long idt

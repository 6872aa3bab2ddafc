# pmode_test: in 32-bit protected mode takes a breakpoint, a software interrupt, a fault without
# and a fault with error code, comes back from each, and ends with the number of them as status.
.include "common.inc"

.equ SOFTWARE, 0x30             # the vector of the software interrupt

    image
    lidt [idt_pointer]
    enter_protected_mode protected, 0x7c00

protected:
    puts started
    xor ebp, ebp                # exceptions seen
    mov ebx, esp

    int3
    mov ecx, 0x1234
    int SOFTWARE
    cmp ecx, 0x4321             # the handler answered in ECX
    jne unexpected

    xor edx, edx
    mov eax, 1
    xor edi, edi
divide:
    div edi                     # divide error; the handler makes the divisor one
    cmp eax, 1
    jne unexpected

invalid:
    ud2                         # invalid opcode; the handler steps over it
after_invalid:

    mov ax, 0x0ff0
load:
    mov gs, ax                  # general protection, error code is the selector
after_load:

    cmp esp, ebx                # every handler left the stack as it was
    jne unexpected
    puts finished
    mov eax, ebp
    out EXIT, al
1:  hlt
    jmp 1b

on_divide:
    cmp dword ptr [esp], offset divide
    jne unexpected
    inc ebp
    mov edi, 1
    puts divided
    mov eax, 1
    iretd

on_breakpoint:
    inc ebp
    puts broke
    iretd

on_invalid:
    cmp dword ptr [esp], offset invalid
    jne unexpected
    inc ebp
    mov dword ptr [esp], offset after_invalid
    puts undefined
    iretd

on_protection:
    cmp dword ptr [esp], 0x0ff0
    jne unexpected
    cmp dword ptr [esp + 4], offset load
    jne unexpected
    inc ebp
    add esp, 4                  # the error code
    mov dword ptr [esp], offset after_load
    puts protected_from
    iretd

on_software:
    cmp ecx, 0x1234
    jne unexpected
    inc ebp
    puts called
    mov ecx, 0x4321
    iretd

unexpected:
    puts failed
    exit 255

started:        .asciz "32-bit protected mode\n"
broke:          .asciz "breakpoint: returned\n"
called:         .asciz "software interrupt 0x30: returned\n"
divided:        .asciz "divide error: repaired\n"
undefined:      .asciz "invalid opcode: skipped\n"
protected_from: .asciz "general protection: skipped\n"
finished:       .asciz "all returned\n"
failed:         .asciz "unexpected exception or value\n"

    flat_gdt
    .balign 8
idt:
    gate on_divide
    gate unexpected
    gate unexpected
    gate on_breakpoint
    gate unexpected
    gate unexpected
    gate on_invalid
    .rept 6
    gate unexpected
    .endr
    gate on_protection
    .rept SOFTWARE - 14
    gate unexpected
    .endr
    gate on_software
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .long idt

# control_registers: in 32-bit protected mode writes to CR0 and CR4 what no processor takes, expects
# general protection each time and what is allowed to be seen afterwards, and ends with the number of
# exceptions as status. For machines that check as processors do: QEMU's TCG takes most of it.
.include "common.inc"

# Executes `what`, which must raise general protection.
.macro raises what:vararg
    mov edi, offset 8f
    \what
    jmp unexpected
8:
.endm

    image
    lidt [idt_pointer]
    enter_protected_mode protected, 0x7c00

protected:
    puts started
    xor ebp, ebp                # exceptions seen

    mov eax, cr0
    and eax, 0xbfffffff
    or eax, 0x20000000          # NW without CD
    raises mov cr0, eax
    mov eax, cr0
    and eax, 0xfffffffe
    or eax, 0x80000000          # PG without PE
    raises mov cr0, eax
    mov eax, cr4
    or eax, 0x2000              # VMXE
    raises mov cr4, eax
    mov eax, cr4
    or eax, 0x80000000          # reserved
    raises mov cr4, eax
    # What is allowed has no exception and is seen.
    mov eax, cr0
    or eax, 0x60000020          # CD, NW, NE
    mov cr0, eax
    mov ebx, cr0
    cmp eax, ebx
    jne unexpected
    and eax, 0x9fffffdf
    mov cr0, eax
    mov ebx, cr0
    cmp eax, ebx
    jne unexpected
    mov eax, cr4
    test eax, 0x2000
    jnz unexpected
    or eax, 0x10                # PSE
    mov cr4, eax
    mov ebx, cr4
    cmp eax, ebx
    jne unexpected
    puts done
    mov eax, ebp
    out EXIT, al
1:  hlt
    jmp 1b

unexpected:
    puts wrong
    exit 255

on_protection:
    cmp dword ptr [esp], 0
    jne unexpected
    inc ebp
    add esp, 4                  # the error code
    mov [esp], edi
    iretd

    flat_gdt
    .balign 8
idt:
    .fill 13, 8, 0
    gate on_protection
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .long idt

started:
    .asciz "32-bit protected mode\n"
done:
    .asciz "control registers: refused what no processor takes\n"
wrong:
    .asciz "unexpected\n"

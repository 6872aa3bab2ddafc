# refused: in 32-bit protected mode does what no guest may do, expects the exception the processor
# raises for it and nothing else, single-steps an instruction the hypervisor answers, and ends with the
# number of exceptions as status. The same on every processor.
.include "common.inc"

.equ DEBUG, 1
.equ INVALID, 6
.equ PROTECTION, 13

# Executes `what`, which must raise `vector`.
.macro raises vector, what:vararg
    mov esi, \vector
    mov edi, offset 8f
    \what
    jmp unexpected
8:
.endm

# As `raises`, with RDMSR or WRMSR of `index`; the value to write is EDX:EAX.
.macro msr_raises instruction, index
    mov ecx, \index
    raises PROTECTION, \instruction
.endm

    image
    lidt [idt_pointer]
    enter_protected_mode protected, 0x7c00

protected:
    puts started
    xor ebp, ebp                # exceptions seen

    # Instructions of hypervisors: there is none in here.
    raises INVALID, vmxoff
    raises INVALID, vmlaunch
    mov eax, 0x8000             # an address they would take
    raises INVALID, .byte 0x0f, 0x01, 0xda      # VMLOAD
    raises INVALID, .byte 0x0f, 0x01, 0xd8      # VMRUN
    raises INVALID, .byte 0x0f, 0x01, 0xdd      # CLGI
    puts instructions

    # Model-specific registers: unknown ones, the hypervisors', impossible values.
    msr_raises rdmsr, 0x12345678
    msr_raises rdmsr, 0x480     # IA32_VMX_BASIC
    msr_raises wrmsr, 0x480
    msr_raises rdmsr, 0xc0010117 # VM_HSAVE_PA
    xor edx, edx
    mov eax, 0x80000000
    msr_raises wrmsr, 0xc0000080 # EFER, reserved bit
    mov eax, 0x02020202
    mov edx, 0x02020202
    msr_raises wrmsr, 0x277     # PAT, reserved type
    xor ecx, ecx
    raises PROTECTION, rdpmc
    puts models

    # An instruction the hypervisor answers, single-stepped: the trap comes behind it.
    mov eax, 0xffff0ff0
    mov dr6, eax
    mov esi, DEBUG
    pushfd
    or dword ptr [esp], 0x100
    popfd
    nop
    nop
    cmp esi, 0
    jne unexpected
    # A breakpoint on a write.
    mov eax, offset cell
    mov dr0, eax
    mov eax, 0x000d0402         # DR0 global, on writes of 4 bytes
    mov dr7, eax
    mov esi, DEBUG
    mov dword ptr [cell], 1
    cmp esi, 0
    jne unexpected
    xor eax, eax
    mov dr7, eax
    puts traps

    # Caches may be emptied.
    wbinvd
    mov eax, ebp
    out EXIT, al
1:  hlt
    jmp 1b

unexpected:
    puts wrong
    exit 255

on_debug:
    cmp esi, DEBUG
    jne unexpected
    mov eax, dr6
    test eax, 0x4001            # BS or B0
    jz unexpected
    mov eax, 0xffff0ff0
    mov dr6, eax
    and dword ptr [esp + 8], 0xfffffeff
    xor esi, esi
    inc ebp
    iretd

on_invalid:
    cmp esi, INVALID
    jne unexpected
    inc ebp
    mov [esp], edi
    iretd

on_protection:
    cmp esi, PROTECTION
    jne unexpected
    cmp dword ptr [esp], 0
    jne unexpected
    inc ebp
    add esp, 4                  # the error code
    mov [esp], edi
    iretd

    flat_gdt
    .balign 8
idt:
    .quad 0
    gate on_debug
    .quad 0, 0, 0, 0
    gate on_invalid
    .quad 0, 0, 0, 0, 0, 0
    gate on_protection
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .long idt

    .balign 4
cell:
    .long 0
started:
    .asciz "32-bit protected mode\n"
instructions:
    .asciz "instructions of hypervisors: refused\n"
models:
    .asciz "model-specific registers: refused what no guest has\n"
traps:
    .asciz "single step and breakpoint: trapped\n"
wrong:
    .asciz "unexpected\n"

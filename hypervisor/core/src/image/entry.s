# Where the machine's boot loader jumps to, and the way from 32-bit protected mode to long mode.
# Multiboot2 3.1: magic, architecture 0 (i386), length, checksum; tags 8-byte aligned.

.section .multiboot2, "a"
.balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0
    .long multiboot2_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_end - multiboot2_header))
    # 3.1.7 entry address.
    .balign 8
    .short 3, 0
    .long 12
    .long entry_multiboot2
    # 3.1.12 modules page aligned.
    .balign 8
    .short 6, 0
    .long 8
    .balign 8
    .short 0, 0
    .long 8
multiboot2_end:

# XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h: type 18).
.section .note.pvh, "a"
.balign 4
    .long 4
    .long 4
    .long 18
    .asciz "Xen"
    .long entry_pvh

.section .boot.text, "ax"
.code32
.global entry_multiboot2
entry_multiboot2:
    mov $2, %esi
    # Multiboot2 3.3: EAX must say that a Multiboot2 loader came.
    cmp $0x36d76289, %eax
    je enter
    xor %ebx, %ebx
    jmp enter
.global entry_pvh
entry_pvh:
    mov $1, %esi
enter:
    cli
    cld
    mov %ebx, %edi
    # Long mode (SDM 3A 10.8.5)? CPUID 0x80000001 EDX bit 29; execute-disable: bit 20.
    mov $0x80000000, %eax
    cpuid
    cmp $0x80000001, %eax
    jb no_long_mode
    mov $0x80000001, %eax
    cpuid
    and $0x20100000, %edx
    cmp $0x20100000, %edx
    jne no_long_mode
    # Boot tables: the first 4 GiB one to one in 2 MiB pages.
    mov $boot_pds, %eax
    mov $0x83, %edx
    mov $2048, %ecx
2:  mov %edx, (%eax)
    add $0x200000, %edx
    add $8, %eax
    dec %ecx
    jnz 2b

# Turns on paging. Also the way of the other processors, with 0 in ESI.
to_long_mode:
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov start_tables, %eax
    mov %eax, %cr3
    # IA32_EFER: LME bit 8, NXE bit 11.
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax
    wrmsr
    # CR0: PG, WP, NE, PE; caches on.
    mov %cr0, %eax
    and $0x9fffffff, %eax
    or $0x80010021, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $start64

no_long_mode:
    mov $no_long_mode_text, %esi
3:  lodsb
    test %al, %al
    jz 5f
    mov %al, %ah
    mov $0x3fd, %dx
4:  in %dx, %al
    test $0x20, %al
    jz 4b
    mov $0x3f8, %dx
    mov %ah, %al
    out %al, %dx
    jmp 3b
5:  cli
    hlt
    jmp 5b
no_long_mode_text:
    .asciz "core: this processor has no long mode with execute-disable (CPUID 0x80000001 EDX bits 20, 29)\r\n"

.code64
start64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov start_stack(%rip), %rsp
    xor %ebp, %ebp
    # The kind of the loader, and its information. Neither function comes back.
    mov %edi, %eax
    mov %esi, %edi
    mov %eax, %esi
    test %edi, %edi
    jz 6f
    call core_main
6:  call core_other

# The other processors start here in real mode: copied to a page below 1 MiB, run at its start.
.code16
.global trampoline_start
trampoline_start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    # CS:IP is page:0, so DS-relative offsets are offsets from the start.
    lgdtl trampoline_gdt_pointer - trampoline_start
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $24, $trampoline32
.balign 8
trampoline_gdt_pointer:
    .short 31
    .long boot_gdt
.global trampoline_end
trampoline_end:

.code32
trampoline32:
    mov $16, %eax
    mov %eax, %ds
    xor %esi, %esi
    jmp to_long_mode

.code64
.section .data.boot, "aw"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x00cf9a000000ffff
boot_gdt_pointer:
    .short 31
    .quad boot_gdt
# What the processor that starts finds: its stack, and the page tables.
.balign 8
.global start_stack
start_stack:
    .quad boot_stack_top
.global start_tables
start_tables:
    .long boot_pml4

.balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .skip 4096 - 8
boot_pdpt:
    .quad boot_pds + 3
    .quad boot_pds + 0x1003
    .quad boot_pds + 0x2003
    .quad boot_pds + 0x3003
    .skip 4096 - 32

.section .bss.boot, "aw", @nobits
.balign 4096
boot_pds: .skip 4096 * 4
boot_stack: .skip 4096 * 8
boot_stack_top:

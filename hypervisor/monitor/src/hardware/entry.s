# Where the core (or QEMU -kernel) jumps to by the PVH note: 32-bit flat protected mode, EBX the start
# information (Xen docs/misc/pvh). From there to long mode; and the way of the other processors.

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
.global entry_pvh
entry_pvh:
    cli
    cld
    mov %ebx, %edi
    mov $boot_stack_top, %esp
    # The first 4 GiB one to one in 2 MiB pages (SDM 3A 4.5.4); `paging` adds the rest.
    movl $page_pdpt + 3, page_pml4
    mov $page_pdpt, %eax
    mov $page_directories + 3, %edx
    mov $4, %ecx
1:  mov %edx, (%eax)
    add $4096, %edx
    add $8, %eax
    dec %ecx
    jnz 1b
    mov $page_directories, %eax
    mov $0x83, %edx
    mov $2048, %ecx
2:  mov %edx, (%eax)
    add $0x200000, %edx
    add $8, %eax
    dec %ecx
    jnz 2b
    call to_long_mode
    lgdt boot_gdt_pointer
    ljmp $8, $entry64

# Turns on paging with the monitor's tables (SDM 3A 10.8.5).
to_long_mode:
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $page_pml4, %eax
    mov %eax, %cr3
    # IA32_EFER.LME.
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    # CR0: PG, WP, NE, PE; caches on.
    mov %cr0, %eax
    and $0x9fffffff, %eax
    or $0x80010021, %eax
    mov %eax, %cr0
    ret

.code64
entry64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %edi, %edi
    mov $boot_stack_top, %rsp
    xor %ebp, %ebp
    call monitor_main
3:  cli
    hlt
    jmp 3b

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
    .short 39
    .long boot_gdt
.global trampoline_end
trampoline_end:

.code32
trampoline32:
    mov $32, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $trampoline_stack_top, %esp
    call to_long_mode
    lgdt boot_gdt_pointer
    ljmp $8, $other64

.code64
other64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov other_stack_top(%rip), %rsp
    mov other_index(%rip), %rdi
    xor %ebp, %ebp
    call monitor_other
4:  cli
    hlt
    jmp 4b

.section .data.boot, "aw"
.balign 8
# Null, 64-bit code, data, 32-bit code, data.
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .short 39
    .quad boot_gdt
.balign 8
.global other_stack_top
other_stack_top:
    .quad 0
.global other_index
other_index:
    .quad 0

.section .bss.boot, "aw", @nobits
.balign 4096
.global page_pml4
page_pml4: .skip 4096
.global page_pdpt
page_pdpt: .skip 4096
.global page_directories
page_directories: .skip 4096 * 4
boot_stack: .skip 4096 * 16
boot_stack_top:
trampoline_stack: .skip 64
trampoline_stack_top:

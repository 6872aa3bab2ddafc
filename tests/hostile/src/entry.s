# From Multiboot (specification 0.6.96, 3.2: 32-bit flat protected mode, EBX the information) to long
# mode; and the same way for the other processors.

.section .multiboot, "aw"
.balign 4
    .long 0x1badb002
    .long 0
    .long -0x1badb002

.section .text
.code32
.global start
start:
    cli
    cld
    mov %ebx, %esi
    mov $boot_stack_top, %esp
    # 4 GiB one to one in 2 MiB pages: 2 to 4 MiB for user programs, the rest for the kernel alone.
    movl $page_pdpt + 7, page_pml4
    movl $page_window_pdpt + 3, page_pml4 + 8
    movl $page_window_directory + 3, page_window_pdpt
    movl $page_window + 3, page_window_directory
    mov $page_pdpt, %eax
    mov $page_directories + 7, %edx
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
    orl $4, page_directories + 8
    call to_long_mode
    lgdt boot_gdt_pointer
    ljmp $8, $start64

to_long_mode:
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $page_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $0x9fffffff, %eax
    or $0x80010021, %eax
    mov %eax, %cr0
    ret

.code64
start64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_stack_top, %rsp
    xor %ebp, %ebp
    mov %esi, %edi
    call hostile_main
3:  cli
    hlt
    jmp 3b

# The second processor starts here, at a page below 1 MiB, in real mode (SDM 3A 9.4.4).
.code16
.global second_start
second_start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl second_gdt_pointer - second_start
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $24, $second32
.balign 8
second_gdt_pointer:
    .short 39
    .long boot_gdt
.global second_end
second_end:

.code32
second32:
    mov $32, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $second_stack_top, %esp
    call to_long_mode
    lgdt boot_gdt_pointer
    ljmp $8, $second64

.code64
second64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $second_stack_top, %rsp
    xor %ebp, %ebp
    call hostile_second
4:  cli
    hlt
    jmp 4b

.section .data
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

.section .bss
.balign 4096
page_pml4:             .skip 4096
page_pdpt:             .skip 4096
.global page_directories
page_directories:      .skip 4 * 4096
page_window_pdpt:      .skip 4096
page_window_directory: .skip 4096
.global page_window
page_window:           .skip 4096
.skip 16384
boot_stack_top:
.skip 8192
second_stack_top:

# matrix: enters 64-bit long mode through page tables of its own, multiplies two 8x8 matrices of
# integers and prints the trace and a position-weighted checksum of the product.
#
#   a[i][j] = 3i + j + 1        b[i][j] = i * j + 2        i, j = 0 to 7
#   checksum = sum over i, j of product[i][j] * (8i + j + 1)
.include "common.inc"

.equ PML4,  0x1000
.equ PDPT,  0x2000
.equ PD,    0x3000
.equ STACK, 0x7c00
.equ A,     0x10000
.equ B,     0x10200
.equ C,     0x10400

    image
    # The first 2 MiB, mapped one to one by a single large page (SDM 3A 4.5).
    mov edi, PML4
    xor eax, eax
    mov ecx, 3 * 4096 / 4
    rep stosd
    mov dword ptr [PML4], PDPT | 3
    mov dword ptr [PDPT], PD | 3
    mov dword ptr [PD], 0x83

    mov eax, PML4
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5              # PAE
    mov cr4, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 1 << 8              # LME
    wrmsr
    lgdt [gdt_pointer]
    mov eax, cr0
    or eax, 0x80000001          # PG and PE at once
    mov cr0, eax
    ljmp 0x08, offset long_mode

    .code64
long_mode:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, STACK
    puts started

    # Fill both matrices.
    xor r8d, r8d                # i
fill_row:
    xor r9d, r9d                # j
fill:
    lea eax, [r8 + 2 * r8]
    lea eax, [rax + r9 + 1]
    mov ecx, r8d
    shl ecx, 3
    add ecx, r9d
    mov dword ptr [A + 4 * rcx], eax
    mov eax, r8d
    imul eax, r9d
    add eax, 2
    mov dword ptr [B + 4 * rcx], eax
    inc r9d
    cmp r9d, 8
    jb fill
    inc r8d
    cmp r8d, 8
    jb fill_row

    # Multiply.
    xor r8d, r8d                # i
multiply_row:
    xor r9d, r9d                # j
multiply:
    xor r10d, r10d              # k
    xor r11d, r11d              # sum
    mov esi, r8d
    shl esi, 3                  # index of a[i][0]
add_product:
    lea ecx, [rsi + r10]
    mov eax, dword ptr [A + 4 * rcx]
    lea edx, [8 * r10]
    add edx, r9d
    imul eax, dword ptr [B + 4 * rdx]
    add r11d, eax
    inc r10d
    cmp r10d, 8
    jb add_product
    lea ecx, [rsi + r9]
    mov dword ptr [C + 4 * rcx], r11d
    inc r9d
    cmp r9d, 8
    jb multiply
    inc r8d
    cmp r8d, 8
    jb multiply_row

    # Trace: every ninth element.
    xor ebx, ebx
    xor ecx, ecx
trace:
    mov eax, dword ptr [C + 4 * rcx]
    add rbx, rax
    add ecx, 9
    cmp ecx, 64
    jb trace
    puts trace_is
    mov rax, rbx
    call print_decimal
    putchar '\n'

    # Checksum.
    xor ebx, ebx
    xor ecx, ecx
weigh:
    mov eax, dword ptr [C + 4 * rcx]
    inc ecx
    imul rax, rcx
    add rbx, rax
    cmp ecx, 64
    jb weigh
    puts checksum_is
    mov rax, rbx
    call print_decimal
    putchar '\n'
    exit 0

# Prints RAX in decimal. Changes RAX, RCX, RDX, RSI.
print_decimal:
    mov esi, 10
    xor ecx, ecx
1:  xor edx, edx
    div rsi
    push rdx
    inc ecx
    test rax, rax
    jnz 1b
2:  pop rax
    add al, '0'
    out PUTCHAR, al
    dec ecx
    jnz 2b
    ret

started:     .asciz "64-bit long mode\n"
trace_is:    .asciz "trace "
checksum_is: .asciz "checksum "

    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 64-bit code
    .quad 0x00cf92000000ffff
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

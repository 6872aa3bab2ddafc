# counter: counts from 1 to 20 in decimal and ends with status 0.
.include "common.inc"
    image
    mov si, 1
next:
    mov ax, si
    call print_decimal
    putchar ' '
    inc si
    cmp si, 20
    jbe next
    putchar '\n'
    exit 0

# Prints AX in decimal. Changes AX, BX, CX, DX.
print_decimal:
    mov bx, 10
    xor cx, cx
1:  xor dx, dx
    div bx
    push dx
    inc cx
    test ax, ax
    jnz 1b
2:  pop ax
    add al, '0'
    out PUTCHAR, al
    loop 2b
    ret

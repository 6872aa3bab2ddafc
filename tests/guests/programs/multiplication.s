# multiplication: prints the table of 2 to 9 times 1 to 9 in 16-bit real mode.
.include "common.inc"
    image
    mov ch, 1                   # the row: second factor
row:
    mov cl, 2                   # the column: first factor
column:
    mov al, cl
    add al, '0'
    out PUTCHAR, al
    putchar 'x'
    mov al, ch
    add al, '0'
    out PUTCHAR, al
    putchar '='
    mov al, cl
    mul ch
    aam                         # tens in AH, ones in AL
    mov dx, ax
    mov al, dh
    add al, '0'
    cmp al, '0'
    jne 1f
    mov al, ' '
1:  out PUTCHAR, al
    mov al, dl
    add al, '0'
    out PUTCHAR, al
    inc cl
    cmp cl, 9
    ja 2f
    putchar ' '
    jmp column
2:  putchar '\n'
    inc ch
    cmp ch, 9
    jbe row
    exit 0

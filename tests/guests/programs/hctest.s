# hctest: uses every hypercall port in every width it has, and ends with status 42. What waits as
# input is echoed.
.include "common.inc"
    image
    # The ports answer that they are there.
    in al, PUTCHAR
    cmp al, 0xe9
    jne absent
    puts16 present

    # One character at a time, the immediate and the DX form of OUT.
    mov dx, PUTCHAR
    mov si, offset letters
1:  lodsb
    test al, al
    jz 2f
    out dx, al
    jmp 1b

    # An empty string prints nothing.
2:  puts16 empty

    # Input, read wide so that the byte 255 differs from none.
    puts16 input
    xor bx, bx
3:  in eax, GETCHAR
    cmp eax, -1
    je 4f
    out PUTCHAR, al
    inc bx
    jmp 3b

    # With none left a narrow read gives 255.
4:  putchar '\n'
    in al, GETCHAR
    cmp al, 0xff
    jne wrong
    puts16 done
    exit 42

absent:
    # Without ports nobody can be told: this only ends the machine where the exit port exists.
    exit 1
wrong:
    puts16 failed
    exit 2

present: .asciz "ports: present\n"
letters: .asciz "putchar: abc\n"
empty:   .asciz ""
input:   .asciz "getchar: "
done:    .asciz "exit: 42\n"
failed:  .asciz "getchar: no end of input\n"

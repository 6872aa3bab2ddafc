# A Multiboot 1 kernel that checks what its loader promises, prints its command line and its module on the
# first serial line and ends the machine with 42, or with the number of the check that failed.
        .set magic, 0x1badb002          # Multiboot 0.6.96, 3.1.1
        .set flags, 3                   # page-aligned modules, memory information
        .set serial, 0x3f8

        # Prints AL. Changes AH and DX.
        .macro put
        mov %al, %ah
        mov $serial + 5, %dx
wait\@: inb %dx, %al
        test $0x20, %al                 # room for a character
        jz wait\@
        mov %ah, %al
        mov $serial, %dx
        outb %al, %dx
        .endm

        .section .text
        .global _start
        .align 4
        .long magic, flags, -(magic + flags)
_start: cmpl $0x2badb002, %eax          # 3.2: the loader's magic
        mov $2, %dl
        jne end
        testl $1, (%ebx)                # 3.3: mem_lower and mem_upper are valid
        mov $3, %dl
        jz end
        cmpl $(60 * 1024), 8(%ebx)      # of 64 MiB, less the first
        mov $4, %dl
        jb end
        testl $4, (%ebx)                # the command line is valid
        mov $5, %dl
        jz end
        movl 16(%ebx), %esi
1:      lodsb
        testb %al, %al
        jz 2f
        put
        jmp 1b
2:      movb $10, %al
        put
        cmpl $1, 20(%ebx)               # one module
        mov $6, %dl
        jne end
        movl 24(%ebx), %ecx             # its first entry: start, end, string
        movl (%ecx), %esi
        movl 4(%ecx), %edi
3:      cmpl %edi, %esi
        jae 4f
        lodsb
        put
        jmp 3b
4:      mov $42, %dl
end:    movb %dl, %al
        outb %al, $0xf4
        cli
        hlt

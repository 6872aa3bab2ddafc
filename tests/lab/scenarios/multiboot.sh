#!/bin/bash
# A Multiboot 1 kernel starts with the registers, memory size, command line and module the specification
# promises.
# lab: memory=1024 cpus=2 limit=300
. /lab/lib.sh

cat >kernel.S <<'END'
        .set magic, 0x1badb002          # Multiboot 0.6.96, 3.1.1
        .set flags, 3                   # page-aligned modules, memory information
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
        outb %al, $0xe9
        jmp 1b
2:      movb $10, %al
        outb %al, $0xe9
        cmpl $1, 20(%ebx)               # one module
        mov $6, %dl
        jne end
        movl 24(%ebx), %ecx             # its first entry: start, end, string
        movl (%ecx), %esi
        movl 4(%ecx), %edi
3:      cmpl %edi, %esi
        jae 4f
        lodsb
        outb %al, $0xe9
        jmp 3b
4:      mov $42, %dl
end:    movb %dl, %al
        outb %al, $0xf4
        cli
        hlt
END
as --32 -o kernel.o kernel.S && ld -m elf_i386 -n -Ttext 0x100000 -o kernel.elf kernel.o || fail "the kernel does not assemble"
echo "of the module" >module
run_guest multiboot --memory 64 --net none --kernel "$work/kernel.elf" --initrd "$work/module" --append "one two three"
expect_code 42 "the Multiboot kernel"
console_has multiboot "one two three"
console_has multiboot "of the module"

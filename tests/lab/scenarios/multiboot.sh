#!/bin/bash
# A Multiboot 1 kernel starts with the registers, memory size, command line and module the specification
# promises.
# lab: memory=1024 cpus=2 limit=300
. /lab/lib.sh

as --32 -o kernel.o /lab/multiboot.s && ld -m elf_i386 -n -Ttext 0x100000 -o kernel.elf kernel.o || fail "the kernel does not assemble"
echo "of the module" >module
run_guest multiboot --memory 64 --net none --kernel "$work/kernel.elf" --initrd "$work/module" --append "one two three"
expect_code 42 "the Multiboot kernel"
console_has multiboot "one two three"
console_has multiboot "of the module"

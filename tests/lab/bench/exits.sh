#!/bin/bash
# Instructions an exit of a guest takes beyond an empty loop: core and monitor beside KVM with QEMU, and KVM with
# our own VMM, each running the tiny guest `exits`.
# lab: memory=1024 cpus=1 limit=900 icount
. /lab/lib.sh

# Under -icount the time stamp counter counts instructions, in guests too. What the core takes for the same
# is measured on a machine of its own (tests/lab/core/exits.toml).
lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"

# figures WHO CONSOLE: the guest's figures as WHO's.
figures() {
    grep -q '^figure ipi_round_trip ' "$2" || fail "the guest under $1 did not measure to its end"
    tr -d '\r' <"$2" | awk -v who="$1" '$1 == "figure" { print "figure " who "_" $2, $3 }'
}

# The guest ends QEMU with its status times two plus one.
timeout 300 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 64 -smp 2 -nodefaults -no-user-config -display none -no-reboot \
    -kernel tiny/exits.image -chardev "file,id=text,path=$work/qemu.console" -device isa-debugcon,iobase=0xe9,chardev=text \
    -device isa-debug-exit,iobase=0xec,iosize=1 </dev/null
[ $? = 1 ] || fail "QEMU did not run the guest to its end"
figures qemu "$work/qemu.console"

timeout=300 run_guest vmm --memory 64 --cpus 2 --net none --kernel tiny/exits.image
expect_code 0 "exits"
figures vmm "$work/vmm.console"

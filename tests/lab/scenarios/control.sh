#!/bin/bash
# The lab itself works: QEMU with the lab machine's kvm_amd boots the guest that the other scenarios boot
# under the product. When this one fails, look at the lab first.
# lab: memory=1536 cpus=2 limit=400 only-kvm
. /lab/lib.sh

guest_initrd initrd <<'END'
[ "$(nproc)" = 2 ] || exit 2
exit 42
END
start=$(now)
timeout 200 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -smp 2 -m 256 -nodefaults -display none -no-reboot -serial stdio \
    -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel" -initrd initrd -append "$quiet" </dev/null >control.console 2>&1
code=$?
# QEMU's device ends with twice the value plus one.
expect_code 85 "QEMU"
console_has control "guest: up with 2 processors"
figure seconds_guest "$(since "$start")"

#!/bin/bash
# Stock OVMF boots a Linux kernel from a disk, and a UEFI variable written in one run is there in the next.
# lab: memory=3072 cpus=1 limit=2400 icount
#
# Counted time, because QEMU's software CPU aborts (assertion bql_locked) when a nested guest writes CR8
# while a virtual interrupt waits. OVMF's interrupt handler writes CR8; where the timer is slow beside the
# processor, as counted time makes it, nothing waits then. Under counted time that CPU may give the guest
# an interrupt twice: a boot that stands still after that, and only such a one, is tried again.
. /lab/lib.sh

guest_initrd initrd <<'END'
mount -t efivarfs efivarfs /sys/firmware/efi/efivars || exit 2
variable=/sys/firmware/efi/efivars/LabMark-5a1f3c0e-6f0b-4c1d-9a52-1d1f0d6b7c21
if [ -e "$variable" ]; then
    [ "$(tail -c 4 "$variable")" = lab! ] || exit 3
    echo "the variable is there"
    exit 44
fi
# Four bytes of attributes (non-volatile, boot, run time: UEFI 2.10 8.2.1), then the value.
printf '\007\000\000\000lab!' >"$variable" || exit 4
exit 43
END
# One EFI program: stub, command line, kernel and initial RAM disk (UAPI.5, unified kernel image).
# The second processor stays unused: a guest with one that waits for itself spins, where others halt (docs/src/lab.md).
printf '%s maxcpus=1' "$quiet" >command-line
stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
objcopy --add-section .cmdline=command-line --change-section-vma .cmdline=0x30000 \
    --add-section .linux="$kernel" --change-section-vma .linux=0x2000000 \
    --add-section .initrd=initrd --change-section-vma .initrd=0x4000000 "$stub" boot.efi || fail "objcopy"
truncate -s 64M esp.img
mformat -i esp.img -F :: && mmd -i esp.img ::/EFI ::/EFI/BOOT && mcopy -i esp.img boot.efi ::/EFI/BOOT/BOOTX64.EFI || fail "the ESP"
macrohard-hypervisor create --name uefi --engine "$engine" --memory 512 --cpus 2 --net none --disk "$work/esp.img,format=raw" || fail "create"
# Without this script's pipefail: `grep -q` may leave before `list` has written all.
ended() { sh -c '! macrohard-hypervisor list | grep -q uefi'; }
for code in 43 44; do
    step "boot that ends with $code"
    for try in 1 2 3 4; do
        start=$(now)
        watch_cpu
        macrohard-hypervisor start uefi || fail "start"
        # Counted seconds: a boot takes ten or eleven of them, however busy this machine is.
        within 15 ended && break
        if ! gave_twice; then
            within 45 ended && break
            fail "waited in vain for: the guest's end"
        fi
        [ "$try" -lt 4 ] || fail "the lab's CPU gave the guest an interrupt twice in each of $try boots"
        step "the lab's CPU gave the guest an interrupt twice; once more"
        macrohard-hypervisor stop uefi --force || fail "stop"
        wait_for 60 "the VM's end" ended
    done
    macrohard-hypervisor logs uefi --console >"uefi-$code.console"
    console_has "uefi-$code" "guest: ends with $code"
    figure "seconds_$code" "$(since "$start")"
done

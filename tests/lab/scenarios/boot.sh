#!/bin/bash
# A stock Debian kernel boots on engine kvm with one and with four virtual CPUs, to its first program.
# lab: memory=2048 cpus=2 limit=600
. /lab/lib.sh

guest_initrd initrd <<'END'
wanted=$(sed -n 's/.*processors=\([0-9]*\).*/\1/p' /proc/cmdline)
[ "$(nproc)" = "$wanted" ] || { echo "wanted $wanted processors, found $(nproc)"; exit 2; }
[ -e /sys/firmware/acpi/tables/FACP ] || { echo "no ACPI"; exit 3; }
[ "$(cat /sys/class/dmi/id/sys_vendor)" ] || { echo "no SMBIOS"; exit 4; }
memory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
[ "$memory" -gt 180 ] || { echo "only $memory MiB of RAM"; exit 5; }
# Every processor does work, and its timer and its interrupts go on.
for processor in $(seq 0 $((wanted - 1))); do
    taskset -c "$processor" sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done' || exit 6
done
sleep 0.2
exit 42
END
for processors in 1 4; do
    step "a Debian kernel with $processors virtual CPUs"
    start=$(now)
    run_guest "boot-$processors" --memory 256 --cpus "$processors" --net none --kernel "$kernel" --initrd initrd \
        --append "$quiet processors=$processors"
    expect_code 42 "the guest with $processors virtual CPUs"
    console_has "boot-$processors" "guest: up with $processors processors"
    figure "seconds_${processors}_cpu" "$(since "$start")"
done

#!/bin/busybox sh
# First program of a Debian-kernel guest in the lab: loads the drivers, runs /check when a scenario
# added one, and ends the machine with its status through the debug-exit port.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs tmpfs /tmp
export PATH=/bin HOME=/
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module" 2>/dev/null
done
echo "guest: up with $(nproc) processors after $(cut -d ' ' -f 1 /proc/uptime) s"
status=0
if [ -x /check ]; then
    /check
    status=$?
fi
echo "guest: ends with $status"
# Where there is no debug-exit port, a power-off says at least that the guest came this far.
lab-tool debug-exit "$status" 2>/dev/null || poweroff -f

#!/bin/busybox sh
# First and only program of a lab machine without disks: brings up what the script needs, runs it with its
# output on the serial line, says its status there and powers off.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs -o mode=1777 tmpfs /tmp
/bin/busybox mount -t tmpfs -o mode=0755 tmpfs /run
export PATH=/opt/macrohard/bin:/bin HOME=/root LANG=C.UTF-8 XDG_RUNTIME_DIR=/run/user/0 TERM=vt100
mkdir -p /dev/pts /dev/shm /run/user/0 /root /lab
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "lab: $module cannot be loaded"
done
cd /root || poweroff -f
/lab/script </dev/null
status=$?
# On a line of its own, behind whatever the kernel is saying.
sleep 1
echo
echo "machine: exit $status"
poweroff -f

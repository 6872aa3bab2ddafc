#!/bin/bash
# Second program of a lab machine: brings up what a Debian machine has after boot, runs the script
# with its output on one virtio port, reports its status on another, powers off.
export PATH=/opt/macrohard/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 XDG_RUNTIME_DIR=/run/user/0 TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p -m 0700 /run/user/0
mkdir -p /run/lock /var/tmp
ln -snf /proc/self/fd /dev/fd
echo lab >/proc/sys/kernel/hostname
ip link set lo up
# Makes /dev/net/tun, which udev would do elsewhere.
modprobe tun
read -r engine </lab/engine
case $engine in
kvm) modprobe -a kvm_amd || echo "lab: kvm_amd cannot be loaded" ;;
core) modprobe -a device_dax dax_hmem || echo "lab: the pool's drivers cannot be loaded" ;;
esac
output=/dev/console
status_port=/dev/console
for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name"
    case $name in
    lab.output) output=/dev/${port##*/} ;;
    lab.status) status_port=/dev/${port##*/} ;;
    esac
done
cd /root || exit 1
# The port is opened once: a virtio port has one opener at a time.
exec 3>"$output"
echo begun >"$status_port"
# The first of several CPUs is left to the kernel: its world switches are spoilt by QEMU when the others load x87
# registers (docs/src/lab.md).
last=$(($(nproc) - 1))
if [ $last -gt 0 ]; then
    taskset -c "1-$last" /lab/script </dev/null >&3 2>&3
else
    /lab/script </dev/null >&3 2>&3
fi
status=$?
exec 3>&-
sync
echo "status $status" >"$status_port"
busybox poweroff -f

#!/bin/busybox sh
# First program of a lab machine. Mounts the read-only root image, this run's files above it and a
# RAM disk on top, then hands over to /lab/init from this run's files.
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module"
done
# The drivers probe their devices by themselves; the disks are there within moments.
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { echo "lab: the disks do not show up"; /bin/busybox poweroff -f; }
    /bin/busybox sleep 0.05
done
/bin/busybox mount -t squashfs -o ro /dev/vda /root-image
/bin/busybox mount -t squashfs -o ro /dev/vdb /files
/bin/busybox mount -t tmpfs -o mode=0755,size=90% tmpfs /writable
/bin/busybox mkdir /writable/upper /writable/work
/bin/busybox mount -t overlay -o lowerdir=/files:/root-image,upperdir=/writable/upper,workdir=/writable/work overlay /new
/bin/busybox mount --move /dev /new/dev
exec /bin/busybox switch_root /new /lab/init

#!/bin/bash
# A guest reads, writes, flushes, discards and zeroes raw and qcow2 disks, and the host finds exactly
# what the guest wrote; a read-only disk refuses; two queues serve two processors.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

guest_initrd initrd <<'END'
set -e
[ "$(cat /sys/block/vda/size)" = 131072 ]
dd if=/dev/urandom of=/tmp/data bs=1M count=24 2>/dev/null
dd if=/tmp/data of=/dev/vda bs=1M seek=8 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/vda bs=1M skip=8 count=24 2>/dev/null | sha256sum)" = "$(sha256sum </tmp/data)" ]
echo "digest $(dd if=/dev/vda bs=1M count=32 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
echo "discard $(cat /sys/block/vda/queue/discard_max_bytes) zeroes $(cat /sys/block/vda/queue/write_zeroes_max_bytes)"
# Discard what lies between 40 and 48 MiB after writing it; the host checks that the space is back.
dd if=/dev/urandom of=/dev/vda bs=1M count=8 seek=40 conv=fsync 2>/dev/null
blkdiscard -o $((40 << 20)) -l $((8 << 20)) /dev/vda
# The read-only disk reads and refuses.
[ "$(dd if=/dev/vdb bs=4096 count=1 2>/dev/null | sha256sum)" = "$(head -c 4096 /dev/zero | tr '\0' 'r' | sha256sum)" ]
[ "$(cat /sys/block/vdb/ro)" = 1 ]
if echo x >/dev/vdb 2>/dev/null; then exit 9; fi
exit 0
END
head -c 1048576 /dev/zero | tr '\0' 'r' >readonly.img
for format in raw qcow2; do
    step "a $format disk"
    qemu-img create -q -f "$format" "disk.$format" 64M
    start=$(now)
    run_guest "disk-$format" --memory 512 --cpus 2 --net none --kernel "$kernel" --initrd initrd --append "$quiet" \
        --disk "$work/disk.$format,format=$format" --disk "$work/readonly.img,format=raw,readonly"
    expect_code 0 "the guest with a $format disk"
    figure "seconds_$format" "$(since "$start")"
    wrote=$(tr -d '\r' <"$work/disk-$format.console" | sed -n 's/^digest //p')
    [ -n "$wrote" ] || fail "the guest reported no digest"
    if [ "$format" = qcow2 ]; then
        qemu-img check -q disk.qcow2 || fail "qemu-img finds the qcow2 image damaged"
        qemu-img convert -f qcow2 -O raw disk.qcow2 found.raw
    else
        cp --sparse=always disk.raw found.raw
    fi
    found=$(head -c $((32 << 20)) found.raw | sha256sum | cut -d ' ' -f 1)
    [ "$wrote" = "$found" ] || fail "$format: the guest wrote $wrote, the host finds $found"
    holes=$(qemu-img map --output=json -f "$format" "disk.$format" --start-offset=$((40 << 20)) --max-length=$((8 << 20)) |
        awk 'BEGIN { RS = "}" } /"zero": false/ { match($0, /"length": [0-9]+/); bytes += substr($0, RSTART + 10, RLENGTH - 10) } END { print bytes + 0 }')
    [ "$holes" = 0 ] || fail "$format: $holes bytes of the discarded range still hold data"
done

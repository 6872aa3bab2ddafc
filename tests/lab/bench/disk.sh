#!/bin/bash
# Random reads of 4 KiB and sequential reads of 1 MiB from a virtio disk, raw and qcow2, beside QEMU's
# virtio-blk on the same files in a RAM disk.
# lab: memory=2048 cpus=1 limit=900
#
# Real time, because QEMU's own virtio-blk stalls in a lab machine that counts instructions. The best of
# several passes counts, which is the one least disturbed.
. /lab/lib.sh

guest_initrd initrd <<'END'
for pass in 1 2 3 4 5; do
    echo "random $(lab-tool read-disk /dev/vda --block 4096 --count 600 --random)" || exit 2
    echo "sequential $(lab-tool read-disk /dev/vda --block 1048576 --count 48)" || exit 3
done
exit 0
END
head -c $((64 << 20)) /dev/urandom >disk.raw
qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
# best CONSOLE KIND COLUMN SCALE: the best pass, in COLUMN / SCALE per second.
best() {
    tr -d '\r' <"$1" | awk -v kind="$2" -v column="$3" -v scale="$4" '
        $1 == kind { rate = $column / scale * 1e9 / $7; if (rate > best) best = rate }
        END { printf "%.1f", best }'
}
for format in raw qcow2; do
    timeout=600 run_guest "ours-$format" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd initrd --append "$quiet" \
        --disk "$work/disk.$format,format=$format"
    expect_code 0 "our guest with a $format disk"
    timeout 600 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none -no-reboot \
        -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel" -initrd initrd -append "$quiet" \
        -drive "if=none,id=disk,file=disk.$format,format=$format" -device virtio-blk-pci,drive=disk </dev/null >"qemu-$format.console" 2>&1
    code=$?
    expect_code 1 "QEMU's guest with a $format disk"
    echo "compare random_4k_$format op/s higher $(best "ours-$format.console" random 3 1) $(best "qemu-$format.console" random 3 1)"
    echo "compare sequential_1m_$format MiB/s higher $(best "ours-$format.console" sequential 5 1048576) $(best "qemu-$format.console" sequential 5 1048576)"
done

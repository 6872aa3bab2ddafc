#!/bin/bash
# Random reads of 4 KiB and sequential reads of 1 MiB from a virtio disk, raw and qcow2, beside QEMU's
# virtio-blk on the same files in a RAM disk.
# lab: memory=2048 cpus=1 limit=1800 icount
. /lab/lib.sh

guest_initrd initrd <<'END'
lab-tool read-disk /dev/vda --block 4096 --count 3000 --random >/tmp/random || exit 2
lab-tool read-disk /dev/vda --block 1048576 --count 128 >/tmp/sequential || exit 3
echo "random $(cat /tmp/random)"
echo "sequential $(cat /tmp/sequential)"
exit 0
END
head -c $((64 << 20)) /dev/urandom >disk.raw
qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
# rate CONSOLE KIND: operations or MiB per (virtual) second.
operations() { tr -d '\r' <"$1" | awk '$1 == "random" { printf "%.1f", $3 * 1e9 / $7 }'; }
mebibytes() { tr -d '\r' <"$1" | awk '$1 == "sequential" { printf "%.1f", $5 / 1048576 * 1e9 / $7 }'; }
for format in raw qcow2; do
    timeout=600 run_guest "ours-$format" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd initrd --append "$quiet" \
        --disk "$work/disk.$format,format=$format"
    expect_code 0 "our guest with a $format disk"
    timeout 600 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none -no-reboot \
        -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel" -initrd initrd -append "$quiet" \
        -drive "if=none,id=disk,file=disk.$format,format=$format" -device virtio-blk-pci,drive=disk </dev/null >"qemu-$format.console" 2>&1
    code=$?
    expect_code 1 "QEMU's guest with a $format disk"
    echo "compare random_4k_$format op/s higher $(operations "ours-$format.console") $(operations "qemu-$format.console")"
    echo "compare sequential_1m_$format MiB/s higher $(mebibytes "ours-$format.console") $(mebibytes "qemu-$format.console")"
done

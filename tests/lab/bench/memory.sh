#!/bin/bash
# Memory of the VM process and its broker beyond guest RAM, with block, net, console and vsock attached and a Debian kernel
# running, beside QEMU's with the same devices.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

# beyond PID: Rss and Pss in KiB of every mapping that is no guest RAM; guest RAM is a memfd in both.
beyond() {
    awk '/^[0-9a-f]+-[0-9a-f]+ / { ram = ($6 ~ /^\/memfd:/) }
        /^Rss:/ && !ram { rss += $2 }
        /^Pss:/ && !ram { pss += $2 }
        END { print rss + 0, pss + 0 }' "/proc/$1/smaps"
}
guest_initrd initrd <<'END'
ip link set eth0 up
dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null
echo "guest: settled"
sleep 1000
END
qemu-img create -q -f qcow2 disk.qcow2 64M
for tap in lab0 lab1; do
    ip tuntap add dev $tap mode tap && ip link set $tap up
done
macrohard-hypervisor create --name beyond --engine kvm --memory 256 --cpus 1 --net tap=lab0 --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" --disk "$work/disk.qcow2" || fail "create"
macrohard-hypervisor start beyond || fail "start"
wait_for 120 "the guest" sh -c 'macrohard-hypervisor logs beyond --console | grep -q "guest: settled"'
sleep 2
read -r rss pss < <(beyond "$(pgrep -x macrohard-vm)")
# The VM process and the broker that connects to the host's sockets for it.
read -r broker_rss broker_pss < <(beyond "$(pgrep -x 'vsock broker')")
rss=$((rss + broker_rss)) pss=$((pss + broker_pss))
cp "/proc/$(pgrep -x macrohard-vm)/smaps" ours.smaps
macrohard-hypervisor stop beyond --force

modprobe -a vhost_vsock vhost_net
cp disk.qcow2 qemu.qcow2
qemu-system-x86_64 -accel kvm -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=256M,share=on -cpu host -m 256 -smp 1 \
    -nodefaults -no-user-config -display none -serial file:qemu.console -kernel "$kernel" -initrd initrd -append "$quiet" \
    -drive if=none,id=disk,file=qemu.qcow2,format=qcow2 -device virtio-blk-pci,drive=disk \
    -netdev tap,id=net,ifname=lab1,script=no,downscript=no -device virtio-net-pci,netdev=net \
    -device virtio-serial-pci -chardev null,id=console -device virtconsole,chardev=console -device vhost-vsock-pci,guest-cid=42 \
    -device virtio-rng-pci -device virtio-balloon-pci &
qemu=$!
wait_for 120 "QEMU's guest" grep -q "guest: settled" qemu.console
sleep 2
read -r qemu_rss qemu_pss < <(beyond "$qemu")
kill "$qemu"
echo "compare beyond_ram_rss KiB lower $rss $qemu_rss"
echo "compare beyond_ram_pss KiB lower $pss $qemu_pss"
figure target_rss_kib 10240
echo "the largest parts of ours:"
awk '/^[0-9a-f]+-[0-9a-f]+ / { name = $6 ? $6 : "anonymous"; ram = (name ~ /^\/memfd:/) } /^Rss:/ && !ram { rss[name] += $2 }
    END { for (name in rss) print rss[name], name }' ours.smaps | sort -rn | head -n 8

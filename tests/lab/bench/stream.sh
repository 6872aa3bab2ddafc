#!/bin/bash
# Throughput between guest and host over vsock and over a network card on a tap, both ways, beside QEMU with
# vhost-vsock and with its own and the kernel's network back end.
# lab: memory=2048 cpus=2 limit=1200
. /lab/lib.sh

mebibytes=96
modprobe -a vhost_vsock vhost_net tun || fail "the lab kernel lacks vhost"
for tap in ours0 qemu0; do
    ip tuntap add dev $tap mode tap
done
rate() { tr -d '\r' <"$1" | awk -v key="$2" '$1 == key && $2 == "bytes" { printf "%.1f", $3 / 1048576 * 1e9 / $5 }'; }
guest_script() {
    cat <<END
ip address add $1.2/24 dev eth0 && ip link set eth0 up
echo "guest: ready"
lab-tool sink vsock:7001 >/tmp/vsock-in
echo "vsock-in \$(cat /tmp/vsock-in)"
lab-tool source vsock:2:7000 $mebibytes || exit 2
lab-tool sink tcp:7003 >/tmp/net-in
echo "net-in \$(cat /tmp/net-in)"
lab-tool source tcp:$1.1:7002 $mebibytes || exit 3
echo "guest: done"
sleep 1
exit 0
END
}
# drive NAME NETWORK TO_GUEST SINK: the host's side of the four transfers.
drive() {
    local name=$1 network=$2 to_guest=$3 from_guest=$4
    lab-tool sink "$from_guest" >"$name.vsock-out" &
    lab-tool sink tcp:7002 >"$name.net-out" &
    until lab-tool source "$to_guest" $mebibytes 2>/dev/null; do sleep 0.5; done
    wait_for 300 "$name: the guest's vsock" test -s "$name.vsock-out"
    until lab-tool source "tcp:$network.2:7003" $mebibytes 2>/dev/null; do sleep 0.2; done
    wait_for 300 "$name: the guest's network" test -s "$name.net-out"
    sed 's/^/vsock-out /' "$name.vsock-out" >"$name.results"
    sed 's/^/net-out /' "$name.net-out" >>"$name.results"
}
ip address add 10.8.1.1/24 dev ours0 && ip link set ours0 up
guest_script 10.8.1 | guest_initrd ours.initrd
macrohard-hypervisor create --name stream --engine kvm --memory 256 --cpus 1 --net tap=ours0 --kernel "$kernel" --initrd "$work/ours.initrd" \
    --append "$quiet" || fail "create"
macrohard-hypervisor start stream || fail "start"
socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock)
wait_for 200 "our guest" sh -c 'macrohard-hypervisor logs stream --console | grep -q "guest: ready"'
drive ours 10.8.1 "unix:$socket:7001" "unix:${socket}_7000"
wait_for 60 "our guest's end" sh -c 'macrohard-hypervisor logs stream --console | grep -q "guest: done"'
macrohard-hypervisor logs stream --console >>ours.results
macrohard-hypervisor stop stream --force 2>/dev/null

ip address add 10.8.2.1/24 dev qemu0 && ip link set qemu0 up
guest_script 10.8.2 | guest_initrd qemu.initrd
for vhost in off on; do
    timeout 600 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:qemu-$vhost.console" -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel" -initrd qemu.initrd -append "$quiet" \
        -netdev tap,id=net,ifname=qemu0,script=no,downscript=no,vhost=$vhost -device virtio-net-pci,netdev=net \
        -device vhost-vsock-pci,guest-cid=42 </dev/null >qemu.log 2>&1 &
    qemu=$!
    wait_for 200 "QEMU's guest" grep -q "guest: ready" "qemu-$vhost.console"
    drive "qemu-$vhost" 10.8.2 vsock:42:7001 vsock:7000
    wait_for 60 "QEMU's guest's end" grep -q "guest: done" "qemu-$vhost.console"
    cat "qemu-$vhost.console" >>"qemu-$vhost.results"
    wait $qemu
done
for way in vsock-out vsock-in; do
    echo "compare ${way/-/_} MiB/s higher $(rate ours.results $way) $(rate qemu-on.results $way)"
done
for way in net-out net-in; do
    echo "compare tap_${way/-/_} MiB/s higher $(rate ours.results $way) $(rate qemu-off.results $way)"
    echo "compare tap_${way/-/_}_beside_vhost MiB/s higher $(rate ours.results $way) $(rate qemu-on.results $way)"
done

#!/bin/bash
# In a VM without vsock the guest's agent reaches the daemon over a virtio-serial port of engine kvm.
# lab: memory=2048 cpus=1 limit=600 long
#
# Does not hold yet: a program's bytes do not come back (docs/src/guest-agent.md), which is why it is `long`.
. /lab/lib.sh

head -c 1000000 /dev/urandom >sent
step "a guest without a vsock device"
guest_initrd serial-initrd <<'END'
[ -e /sys/bus/virtio/drivers/vmw_vsock_virtio_transport ] || exit 2
mkdir -p /run /etc /root /dev/virtio-ports
echo root:x:0:0::/root:/bin/sh >/etc/passwd
# As udev does elsewhere: a link by the name of each port.
for port in /sys/class/virtio-ports/*; do
    [ -s "$port/name" ] && ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
[ -c /dev/virtio-ports/org.macrohard.agent ] || exit 3
while [ ! -e /tmp/end ]; do
    macrohard-guest-agent system
    sleep 0.1
done
exit 0
END
macrohard-hypervisor create --name serial --engine "$engine" --memory 256 --cpus 1 --net none --agent serial --kernel "$kernel" \
    --initrd "$work/serial-initrd" --append "$quiet" || fail "create"
macrohard-hypervisor start serial || fail "start"
in_guest() { macrohard-hypervisor exec --wait 300 serial -- "$@"; }
in_guest cat <sent >back || fail "cat over the serial port"
cmp sent back || fail "bytes came back changed over the serial port"
pkill -KILL macrohardd
in_guest true || fail "the next daemon does not hear of the agent at the port"
in_guest killall -KILL macrohard-guest-agent 2>/dev/null
in_guest true || fail "no agent at the port after the first was killed"
in_guest touch /tmp/end
in_guest killall macrohard-guest-agent 2>/dev/null
wait_for 60 "the guest's end" sh -c '! macrohard-hypervisor list | grep -q serial'
macrohard-hypervisor logs serial --console >serial.console
console_has serial "guest: ends with 0"

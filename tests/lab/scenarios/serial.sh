#!/bin/bash
# In a VM without vsock all of the agents' traffic goes over one virtio-serial port of engine kvm: much both ways comes
# whole, also of several programs at once; a session's agent is carried by the system's; a folder is shared with the
# running guest, and is there again after the death of the agent and of the daemon, as both are themselves.
# lab: memory=2048 cpus=1 limit=1500
. /lab/lib.sh

head -c 1000000 /dev/urandom >sent
guest_initrd serial-initrd <<'END'
[ -e /sys/bus/virtio/drivers/vmw_vsock_virtio_transport ] || exit 2
mkdir -p /run /etc /root /home/one /dev/virtio-ports
printf 'root:x:0:0::/root:/bin/sh\none:x:1000:1000::/home/one:/bin/sh\n' >/etc/passwd
printf 'root:x:0:\none:x:1000:\n' >/etc/group
chown 1000:1000 /home/one
# As udev does elsewhere: a link by the name of each port.
for port in /sys/class/virtio-ports/*; do
    [ -s "$port/name" ] && ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
[ -c /dev/virtio-ports/org.macrohard.agent ] || exit 3
( while :; do su one -c 'macrohard-guest-agent session'; sleep 0.5; done ) &
while [ ! -e /tmp/end ]; do
    macrohard-guest-agent system
    sleep 0.1
done
exit 0
END
macrohard-hypervisor create --name serial --engine "$engine" --memory 256 --cpus 1 --net none --agent serial --kernel "$kernel" \
    --initrd "$work/serial-initrd" --append "$quiet" || fail "create"
macrohard-hypervisor start serial || fail "start"
as_user() { macrohard-hypervisor exec --wait 300 serial -- "$@"; }
as_root() { macrohard-hypervisor exec --wait 300 --user root serial -- "$@"; }
as_root true || fail "no agent"
session() { macrohard-hypervisor status serial | grep -q '^agents.*one'; }
wait_for 200 "the session" session
sees() { [ "$(as_user cat "$1")" = "$2" ]; }
listed() { macrohard-hypervisor share list serial | grep -q "$1"; }

step "much both ways"
start=$(now)
as_root cat <sent >back || fail "cat over the serial port"
figure cat_1_mb_seconds "$(since "$start")"
cmp sent back || fail "bytes came back changed over the serial port"
as_root head -c 3000000 /dev/zero | cmp -n 3000000 - /dev/zero || fail "a program that writes as fast as it can"

step "several at once"
for number in 1 2 3; do as_user cat <sent >"back$number" & done
wait
for number in 1 2 3; do cmp sent "back$number" || fail "bytes came back changed where several programs ran"; done

step "a folder for the running guest"
mkdir folder fixed
echo "of the host" >folder/from-host
echo fixed >fixed/file
macrohard-hypervisor share add serial "$work/folder" --tag t || fail "share add"
macrohard-hypervisor share add serial "$work/fixed" --read-only || fail "share add --read-only"
listed 't .*9p-serial.*mounted at ~/Host/t for one' || fail "the list: $(macrohard-hypervisor share list serial)"
sees Host/t/from-host "of the host" || fail "not seen: $(as_root cat /proc/mounts)"
as_user sh -c 'echo "of the guest" >Host/t/from-guest' || fail "the guest cannot write"
[ "$(cat folder/from-guest)" = "of the guest" ] || fail "the host sees $(cat folder/from-guest)"
as_user sh -c 'echo changed >Host/fixed/file' 2>/dev/null && fail "a read-only share is written to"
[ "$(cat fixed/file)" = fixed ] || fail "the read-only share was changed"
cp sent folder/large
as_user cmp Host/t/large - <sent || fail "a large file and as much input at once"
start=$(now)
as_user dd if=/dev/zero of=Host/t/written bs=256k count=16 2>/dev/null || fail "write"
figure write_4_mib_seconds "$(since "$start")"
head -c 4194304 /dev/zero | cmp - folder/written || fail "what was written differs"
as_user sh -c 'mkdir Host/t/work local && lab-tool files Host/t/work local --seed 1 --steps 200' || fail "random work"

step "the daemon is killed"
pkill -KILL macrohardd
as_root true || fail "the next daemon does not hear of the agent at the port"
wait_for 200 "the session again" session
wait_for 200 "the share again" sees Host/t/from-host "of the host"
listed 't .*9p-serial' || fail "the list of the next daemon: $(macrohard-hypervisor share list serial)"

step "the agent is killed"
as_root killall -KILL macrohard-guest-agent 2>/dev/null
as_root true || fail "no agent at the port after the first was killed"
wait_for 200 "the session after that" session
wait_for 200 "the share after that" sees Host/t/from-host "of the host"
as_root cat <sent >back || fail "cat after all"
cmp sent back || fail "bytes came back changed after all"

step "the end"
macrohard-hypervisor share remove serial t || fail "share remove"
as_user ls Host/t/from-host 2>/dev/null && fail "the share is still there"
as_root touch /tmp/end
as_root killall macrohard-guest-agent 2>/dev/null
wait_for 200 "the guest's end" sh -c '! macrohard-hypervisor list | grep -q serial'
macrohard-hypervisor logs serial --console >serial.console
console_has serial "guest: ends with 0"

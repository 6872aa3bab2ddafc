#!/bin/bash
# vsock carries bytes unharmed in both directions: the host reaches a guest's port by CONNECT, the guest
# reaches a Unix socket of the host; a port nobody listens on is refused.
# lab: memory=2048 cpus=2 limit=600
. /lab/lib.sh

guest_initrd initrd <<'END'
lab-tool vsock-echo 1234 &
echo "guest: ready"
wait
# To the host (CID 2), a MiB there and back.
dd if=/dev/urandom of=/tmp/sent bs=64k count=16 2>/dev/null
lab-tool send vsock:2:5000 </tmp/sent >/tmp/back || exit 3
cmp /tmp/sent /tmp/back || exit 4
# Nobody listens there.
if lab-tool send vsock:2:5999 </dev/null 2>/dev/null; then exit 5; fi
exit 0
END
macrohard-hypervisor create --name vsock --engine "$engine" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" || fail "create"
macrohard-hypervisor start vsock || fail "start"
socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock)
[ -S "$socket" ] || fail "the VM has no vsock socket"
socat "UNIX-LISTEN:${socket}_5000" EXEC:cat &
wait_for 300 "the guest's listener" sh -c 'macrohard-hypervisor logs vsock --console | grep -q "listening on vsock"'
step "the host reaches the guest"
head -c 1000000 /dev/urandom >sent
lab-tool send "unix:$socket:1234" <sent >back || fail "the guest's port 1234 is not reached"
cmp sent back || fail "bytes came back changed"
step "the guest reaches the host"
wait_for 200 "the guest's end" sh -c '! macrohard-hypervisor list | grep -q vsock'
macrohard-hypervisor logs vsock --console >vsock.console
console_has vsock "guest: ends with 0"

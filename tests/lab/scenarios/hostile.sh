#!/bin/bash
# A guest that writes garbage to every port, BAR and configuration space and gives its devices impossible
# virtqueues takes down nothing but itself: the VM process answers throughout and ends in order.
# lab: memory=2048 cpus=2 limit=1200
. /lab/lib.sh

qemu-img create -q -f qcow2 disk.qcow2 16M
mkdir -p shared
for seed in 1 2; do
    guest_initrd initrd <<END
ip link set eth0 up
lab-tool virtqueue-abuse all --seed $seed --rounds 40
echo "guest: abuse over"
lab-tool garbage --seed $seed --rounds 300
echo "guest: garbage over"
# Whatever state the devices are in now, the processors run.
while :; do sleep 1; done
END
    name=hostile-$seed
    macrohard-hypervisor create --name "$name" --engine "$engine" --memory 256 --cpus 2 --net passt --kernel "$kernel" --initrd "$work/initrd" \
        --append "$quiet" --disk "$work/disk.qcow2" --share "$work/shared:shared" || fail "create"
    macrohard-hypervisor start "$name" || fail "start"
    pid=$(macrohard-hypervisor status "$name" --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1)
    step "seed $seed: virtqueues"
    # Garbage may hit a legitimate reset or power-off; then the VM ends or starts again, in order.
    end=$((SECONDS + 400))
    until macrohard-hypervisor logs "$name" --console 2>/dev/null | grep -q 'guest: garbage over'; do
        [ "$SECONDS" -lt "$end" ] || fail "seed $seed: the guest does not finish"
        kill -0 "$pid" 2>/dev/null || break
        macrohard-hypervisor status "$name" --json >/dev/null || fail "seed $seed: the VM does not answer"
        sleep 1
    done
    macrohard-hypervisor logs "$name" --console >"$name.console"
    console_has "$name" "guest: abuse over"
    state=$(macrohard-hypervisor status "$name" --json)
    case $state in
    *crashed*) fail "seed $seed: the VM crashed: $state" ;;
    esac
    if kill -0 "$pid" 2>/dev/null; then
        macrohard-hypervisor stats "$name" >/dev/null || fail "seed $seed: no statistics"
        macrohard-hypervisor stop "$name" --force || fail "seed $seed: the VM cannot be stopped"
    fi
    # Code 3 means clusters that are merely unused: the VM was ended by force.
    qemu-img check -q disk.qcow2
    case $? in
    0 | 3) ;;
    *) fail "seed $seed: the guest damaged the image's own structures" ;;
    esac
done

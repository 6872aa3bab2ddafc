#!/bin/bash
# Window memory: a guest finds the device by its ids, what it writes to the memory is in the file that the
# compositor maps, what is written there the guest reads, and a reset of the guest keeps it.
# lab: memory=1536 cpus=2 limit=500
. /lab/lib.sh

guest_initrd initrd <<'END'
for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor") $(cat "$device/device") $(cat "$device/class")" = "0x1af4 0x1110 0x050000" ] && break
    device=
done
[ -n "$device" ] || exit 2
[ "$(stat -c %s "$device/resource2")" = $((64 << 20)) ] || exit 3
echo 1 >"$device/enable" || exit 4
start=$(sed -n '3s/ .*//p' "$device/resource")
last=$((start + (64 << 20) - 4))
devmem "$start" 32 0x6c656970 || exit 5
devmem $last 32 0x646e6521 || exit 6
[ "$(devmem "$start" 32)" = 0x6C656970 ] || exit 7
echo "guest: has written"
for turn in $(seq 300); do
    [ "$(devmem $((start + 4096)) 32)" = 0x74736F68 ] && exit 42
    sleep 0.2
done
exit 8
END
cat >windows.toml <<END
name = "windows"
memory = 256
cpus = 1
engine = "$engine"

[boot]
kernel = "$kernel"
initrd = "$work/initrd"
append = "$quiet"

[windows]
memory = 64
END
mkdir -p "$HOME/.config/macrohard/vms" && cp windows.toml "$HOME/.config/macrohard/vms/"
step "the guest writes"
start=$(now)
macrohard-hypervisor start windows || fail "the VM does not start"
console=${XDG_STATE_HOME:-$HOME/.local/state}/macrohard/vms/windows/console.log
wait_for 240 "the guest's writes" grep -q "guest: has written" "$console"
pid=$(macrohard-hypervisor status windows --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
# The memory as a file, and where in it: a memfd, or with the core beneath what the process has mapped of the pool.
base=0
if [ "$engine" = core ]; then
    memory=/proc/$pid/mem
    while IFS='- ' read -r from to _; do
        [ $((0x$to - 0x$from)) = $((64 << 20)) ] && base=$((0x$from))
    done < <(grep dax /proc/"$pid"/maps)
    [ "$base" != 0 ] || fail "the VM process has mapped no window memory: $(grep dax /proc/"$pid"/maps)"
else
    memory=$(for file in /proc/"$pid"/fd/*; do [ "$(readlink "$file")" = "/memfd:window-memory (deleted)" ] && echo "$file"; done | head -n 1)
    [ -n "$memory" ] || fail "the VM process has no window memory"
fi
[ "$(dd if="$memory" bs=4 skip=$((base / 4)) count=1 2>/dev/null)" = piel ] || fail "the guest's first word is not there"
[ "$(dd if="$memory" bs=4 skip=$((base / 4 + (64 << 18) - 1)) count=1 2>/dev/null)" = '!end' ] || fail "the guest's last word is not there"
step "the host writes"
printf host | dd of="$memory" bs=1 seek=$((base + 4096)) conv=notrunc 2>/dev/null || fail "the host cannot write"
within 240 grep -q "guest: ends with" "$console"
grep -q "guest: ends with 42" "$console" || fail "the guest does not see what the host wrote"
figure seconds_windows "$(since "$start")"

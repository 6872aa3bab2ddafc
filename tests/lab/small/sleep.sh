#!/bin/sh
# The machine sleeps (suspend to RAM) and wakes with the core beneath it, more than once: root goes on with all its
# processors, the core is as it was, and a guest that ran goes on where it was, its clock too.
# lab: memory=448 pool=256 cpus=3 limit=600 qemu
fail() { echo "FAILED: $*"; tail -n 5 guest.console; dmesg | tail -n 30; macrohard-hypervisor core log | tail -n 20; exit 1; }
cd /tmp || exit 1

# within SECONDS COMMAND...: whether a command succeeds in that time.
within() {
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}
processors() { grep -c ^processor /proc/cpuinfo; }
all=$(processors)
guests=1
if [ "$all" = 3 ]; then
    # QEMU's first processor may have its world switches spoilt by the others (docs/src/lab.md): guests run on those.
    taskset -p 6 $$ >/dev/null || fail "no taskset"
    guests=2
fi
# QEMU's firmware leaves the chipset's power management without its ports behind a sleep (ICH9 13.1.11, 13.1.12), with the
# core and without.
power_management=/sys/bus/pci/devices/0000:00:1f.0/config
[ ! -e $power_management ] || dd if=$power_management of=registers bs=1 skip=64 count=8 2>/dev/null
grep -q deep /sys/power/mem_sleep || fail "there is no suspend to RAM: $(cat /sys/power/mem_sleep)"
echo deep >/sys/power/mem_sleep

echo "* a guest"
cat >check <<'END'
#!/bin/busybox sh
i=0
while [ $i -lt 100 ]; do i=$((i + 1)); echo "tick $i $(cut -d ' ' -f 1 /proc/uptime)"; sleep 0.2; done
exit 42
END
chmod 0755 check
{ cat /lab/guest/initrd; echo check | cpio -o -H newc 2>/dev/null; } >initrd
macrohard-hypervisor run --engine core --timeout 1500 --net none --memory 160 --cpus $guests --kernel /lab/guest/vmlinuz \
    --initrd initrd --append 'console=ttyS0 quiet panic=-1 mitigations=off' </dev/null >guest.console 2>&1 &
guest=$!
within 1000 grep -q '^tick 3 ' guest.console || fail "the guest does not come up"

for turn in 1 2; do
    before=$(grep -c '^tick' guest.console)
    echo "* sleep $turn after tick $before"
    echo 0 >/sys/class/rtc/rtc0/wakealarm
    echo +3 >/sys/class/rtc/rtc0/wakealarm || fail "the clock wakes nobody"
    echo mem >/sys/power/state || fail "root does not sleep"
    [ ! -e $power_management ] || dd if=registers of=$power_management bs=1 seek=64 conv=notrunc 2>/dev/null
    macrohard-hypervisor core log | grep -q "awake after sleep $turn" || fail "the core has not slept"
    [ "$(processors)" = "$all" ] || fail "of $all processors $(processors) came back"
    macrohard-hypervisor core status | grep -q 'as it was' || fail "the core's memory has changed"
    within 200 grep -q "^tick $((before + 10)) " guest.console || fail "the guest does not go on"
done
wait $guest
code=$?
[ "$code" = 42 ] || fail "the guest ended with $code"
tr -d '\r' <guest.console |
    awk '$1 == "tick" { if (at && $3 - at > 2.5) { print "tick", $2, "after", $3 - at, "s"; bad = 1 } at = $3 } END { exit bad }' ||
    fail "the guest's clock has jumped"
macrohard-hypervisor core log | tail -n 4
exit 0

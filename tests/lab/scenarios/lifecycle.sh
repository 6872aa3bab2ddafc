#!/bin/bash
# Pause stops a guest's clock of work and resume lets it go on, reset starts it again, the power button
# reaches it and it powers off.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

guest_initrd initrd <<'END'
echo "guest: boot"
( i=0; while :; do i=$((i + 1)); echo "tick $i"; sleep 0.2; done ) &
lab-tool power-button || exit 2
echo "guest: powering off"
poweroff -f
END
ticks() { macrohard-hypervisor logs life --console | grep -c '^tick'; }
boots() { macrohard-hypervisor logs life --console | grep -c 'guest: boot'; }
state() { macrohard-hypervisor status life --json | grep -q "\"$1\""; }
macrohard-hypervisor create --name life --engine "$engine" --memory 256 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" || fail "create"
macrohard-hypervisor start life || fail "start"
wait_for 120 "the first ticks" sh -c 'macrohard-hypervisor logs life --console | grep -q "^tick 3"'
step "pause"
macrohard-hypervisor pause life || fail "pause"
state paused || fail "the state is not paused: $(macrohard-hypervisor status life)"
sleep 0.5
before=$(ticks)
sleep 3
[ "$(ticks)" = "$before" ] || fail "a paused guest goes on"
macrohard-hypervisor pause life 2>refusal && fail "a paused VM is paused again"
grep -q -i paused refusal || fail "the refusal does not say why: $(cat refusal)"
step "resume"
macrohard-hypervisor resume life || fail "resume"
wait_for 60 "ticks after the pause" sh -c "[ \$(macrohard-hypervisor logs life --console | grep -c '^tick') -gt $((before + 2)) ]"
step "reset"
macrohard-hypervisor reset life || fail "reset"
wait_for 120 "the second boot" sh -c '[ $(macrohard-hypervisor logs life --console | grep -c "guest: boot") = 2 ]'
wait_for 120 "the power-button watcher" sh -c '[ $(macrohard-hypervisor logs life --console | grep -c "waiting for the power button") = 2 ]'
step "power button"
macrohard-hypervisor stop life --timeout 60 || fail "stop"
macrohard-hypervisor logs life --console >life.console
console_has life "the power button was pressed"
[ "$(grep -c 'guest: up with 2 processors' life.console)" = 2 ] || fail "a processor is missing in one of the two boots"
state stopped || fail "the state is not stopped: $(macrohard-hypervisor status life)"

#!/bin/bash
# What is typed and pointed at in a viewer of the screen arrives at the guest's input devices, engine kvm.
# lab: memory=2048 cpus=2 limit=600
. /lab/lib.sh

guest_initrd initrd <<'END'
test -c /dev/dri/card0 || exit 2
printf '\033[2J\033[H\033[?25lhello, screen' >/dev/tty0 || exit 3
echo "guest: shown"
lab-tool input-events 6 || exit 4
echo "guest: heard"
END
macrohard-hypervisor create --name screen --engine "$engine" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" || fail "create"
definition=$(find "${XDG_CONFIG_HOME:-$HOME/.config}" -name screen.toml)
printf '\n[display]\nwidth = 1024\nheight = 768\n' >>"$definition" || fail "the definition is nowhere"
macrohard-hypervisor start screen || fail "start"
said() { macrohard-hypervisor logs screen --console | grep -q -F -- "$1"; }
wait_for 200 "the guest's console on its screen" said "guest: shown"
socket=$(find "$XDG_RUNTIME_DIR" -name display.sock)
wait_for 60 "the guest listening to its input devices" said "listening to"
step "keys and pointer"
lab-tool screen "$socket" type-and-point || fail "type"
wait_for 60 "the events" said "guest: heard"
for event in "keyboard 1 30 1" "keyboard 1 30 0" "pointer 3 0 16384" "pointer 3 1 8192" "pointer 1 272 1" "pointer 1 272 0" \
    "pointer 2 8 -1" "pointer 2 12 60"; do
    said "Macrohard $event" || fail "the guest did not see: $event"
done
wait_for 60 "the guest's end" said "guest: ends with 0"

#!/bin/bash
# A guest with a screen finds virtio-gpu, its console appears in the screen's frame, and it takes the size a viewer asks
# for. What is typed and pointed at is scenario `screen-input`.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

guest_initrd initrd <<'END'
test -c /dev/dri/card0 || exit 2
printf '\033[2J\033[H\033[?25lhello, screen' >/dev/tty0 || exit 3
echo "guest: shown"
mode() { head -n 1 /sys/class/drm/card0-Virtual-1/modes; }
until [ "$(mode)" = 800x600 ]; do sleep 0.2; done
echo "guest: mode $(mode)"
END
macrohard-hypervisor create --name screen --engine "$engine" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" || fail "create"
definition=$(find "${XDG_CONFIG_HOME:-$HOME/.config}" -name screen.toml)
printf '\n[display]\nwidth = 1024\nheight = 768\n' >>"$definition" || fail "the definition is nowhere"
macrohard-hypervisor start screen || fail "start"
said() { macrohard-hypervisor logs screen --console | grep -q -F -- "$1"; }
wait_for 200 "the guest's console on its screen" said "guest: shown"
socket=$(find "$XDG_RUNTIME_DIR" -name display.sock)
step "what is shown"
lab-tool screen "$socket" shot "$work/one.png" >shot || fail "screenshot: $(cat shot)"
grep -q '^1024 x 768, lit [1-9]' shot || fail "the screen shows nothing: $(cat shot)"
head -c 4 one.png | grep -q PNG || fail "the screenshot is no PNG file"
step "another size"
lab-tool screen "$socket" resize 800 600 || fail "the screen keeps its size"
wait_for 60 "the guest's new mode" said "guest: mode 800x600"
wait_for 60 "the guest's end" said "guest: ends with 0"

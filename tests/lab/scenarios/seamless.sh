#!/bin/bash
# Windows of a guest's programs are windows of the lab machine's own desktop, through window memory of the engine's:
# keys and sizes go in, titles, sizes and pixels come out, the windows outlive the compositor and the agent, and go with
# the VM.
# lab: memory=3072 cpus=2 limit=1500 long core compositor
. /lab/lib.sh
. /lab/userland.sh

userland_initrd initrd <<'END'
while :; do macrohard-guest-agent system; sleep 1; done &
while :; do as_guest dbus-run-session -- macrohard-guest-agent session; sleep 1; done
END
Xvfb :9 -screen 0 1024x768x24 -nolisten tcp >xvfb.log 2>&1 &
export DISPLAY=:9 MACROHARD_PAINTER=software
wait_for 30 "the host's X server" test -S /tmp/.X11-unix/X9
openbox >openbox.log 2>&1 &
wait_for 30 "the host's window manager" sh -c 'wmctrl -m | grep -q Openbox'
macrohard-hypervisor create --name windows --engine "$engine" --memory 1024 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" --share "$userland:ro:virtio-fs" || fail "create"
macrohard-hypervisor start windows || fail "start"
start=$(now)
in_guest() { macrohard-hypervisor exec --wait 300 windows -- "$@"; }
window() { wmctrl -lx | grep -E -- "$1" | head -n 1 | cut -d ' ' -f 1 | grep .; }
size() { xwininfo -id "$1" | awk '/Width:/ {w=$NF} /Height:/ {h=$NF} END {print w, h}'; }
windows_fail() {
    wmctrl -lxGp
    macrohard-hypervisor windows windows
    in_guest ps axo pid,etimes,time,args
    macrohard-hypervisor logs windows | tail -n 60
    fail "$1"
}

step "a terminal"
macrohard-hypervisor seamless windows --enable || fail "seamless --enable"
wait_for 300 "the session's applications" sh -c 'macrohard-hypervisor apps windows | grep -q xterm'
macrohard-hypervisor launch windows debian-xterm --wait 300 || fail "launch"
within 300 window xterm || windows_fail "no window"
terminal=$(window xterm)
xprop -id "$terminal" WM_CLASS | grep -q 'org.macrohard.windows' || windows_fail "its class: $(xprop -id "$terminal" WM_CLASS)"
figure seconds_to_window "$(since "$start")"

step "keys"
xdotool windowactivate --sync "$terminal"
xdotool type --delay 60 'echo typed | tr a-z A-Z > /tmp/typed'
xdotool key Return
within 120 sh -c 'macrohard-hypervisor exec windows -- cat /tmp/typed | grep -q ^TYPED' || windows_fail "keys do not arrive"

step "a title, pixels and a size"
# The screen is black where nothing is, and the window is as white as the guest's program says.
xdotool type --delay 60 'printf "\033]0;titled\007\033]11;#ffffff\007"; clear'
xdotool key Return
within 120 sh -c 'wmctrl -l | grep -q titled' || windows_fail "the title does not change"
number() { macrohard-hypervisor windows windows | awk '/titled/ {print $1}' | grep .; }
white() { macrohard-hypervisor screenshot windows --window "$(number)" --output shot.png && python3 /lab/white.py shot.png; }
within 120 white || windows_fail "the window is not white"
wmctrl -i -r "$terminal" -e 0,100,80,700,500
# The guest's window is as large as the host's without its border of two pixels.
guest_size() {
    in_guest sh -c 'cd /run/user/1000/macrohard-windows && XAUTHORITY=$PWD/authority DISPLAY=$(cat display) xwininfo -name titled' |
        awk '/Width:/ {w=$NF} /Height:/ {h=$NF} END {print w, h}'
}
agrees() {
    local width height
    read -r width height <<<"$(size "$terminal")"
    [ "$width" -gt 600 ] && [ "$(guest_size)" = "$((width - 4)) $((height - 4))" ]
}
within 120 agrees || windows_fail "$(guest_size), not as large as the host's: $(size "$terminal")"
within 120 white || windows_fail "the larger window is not white"

step "the compositor dies"
pkill -KILL macrohard-compo || fail "there is no compositor"
within 300 sh -c 'wmctrl -l | grep -q titled' || windows_fail "the window does not come back"

step "the agent dies"
in_guest pkill -KILL -f 'macrohard-guest-agent session' >/dev/null 2>&1
within 300 sh -c 'macrohard-hypervisor exec windows -- cat /tmp/typed | grep -q ^TYPED' || fail "the agent does not come back"
within 300 sh -c 'wmctrl -l | grep -q titled' || windows_fail "the window does not come back with the agent"
terminal=$(window xterm)
xdotool windowactivate --sync "$terminal"
xdotool type --delay 60 'echo again > /tmp/again'
xdotool key Return
within 120 sh -c 'macrohard-hypervisor exec windows -- cat /tmp/again | grep -q ^again' || windows_fail "keys do not arrive again"

step "the end"
wmctrl -i -c "$terminal"
within 120 sh -c '! wmctrl -l | grep -q titled' || windows_fail "a closed window stays"
macrohard-hypervisor launch windows debian-xterm --wait 300 || fail "launch"
within 300 window xterm >/dev/null || windows_fail "no second window"
macrohard-hypervisor stop windows --force || fail "stop"
within 30 sh -c '! wmctrl -lx | grep -q org.macrohard' || windows_fail "windows outlive their VM"
figure seconds "$(since "$start")"

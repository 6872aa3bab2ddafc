#!/bin/bash
# Windows of two VMs side by side: told apart by name and colour, keys reach the one that has the keyboard, and the end of
# one takes its own windows and no other. Run as windows.sh, with the first VM running; launching starts the second.
#
# two-vms.sh VM OTHER FOLDER
set -uo pipefail
vm=$1
other=$2
pictures=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hypervisor=macrohard-hypervisor

step() { echo "* $*"; }
fail() {
    echo "FAILED: $*"
    import -window root "$pictures/failed.png"
    for name in "$vm" "$other"; do
        $hypervisor status "$name"
        $hypervisor windows "$name"
    done
    wmctrl -lxGp
    $hypervisor logs "$other" | tail -n 20
    exit 1
}
wait_for() {
    local end=$((SECONDS + 3 * $1)) what=$2
    shift 2
    until "$@" >"$work/last" 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $what; the last said: $(cat "$work/last")"
        sleep 0.3
    done
}
gone() { ! "$@"; }
# window VM: the X11 id of this VM's terminal.
window() { wmctrl -lx | grep -F "[$1]" | grep xterm | head -n 1 | cut -d ' ' -f 1 | grep .; }
typed() { [ "$($hypervisor exec --wait 60 "$1" -- cat /tmp/who)" = "$1" ]; }
# border ID: the colour of a window's left border.
border() {
    xdotool windowactivate --sync "$1"
    local x y height
    read -r x y height <<<"$(xwininfo -id "$1" | awk '/Absolute upper-left X/ {x=$NF} /Absolute upper-left Y/ {y=$NF} /Height:/ {h=$NF} END {print x, y, h}')"
    import -window root -crop "1x1+$x+$((y + height / 2))" -depth 8 txt:- | grep -oE '#[0-9A-F]{6}' | head -n 1
}

step "a terminal in each VM; the second is started for it"
$hypervisor launch "$vm" debian-xterm || fail "launch in $vm"
$hypervisor start "$other" || fail "start $other"
wait_for 300 "the applications of $other" sh -c "$hypervisor apps $other | grep -q debian-xterm"
$hypervisor launch "$other" debian-xterm || fail "launch in $other"
wait_for 120 "the first's window" window "$vm"
wait_for 180 "the second's window" window "$other"
first=$(window "$vm")
second=$(window "$other")
wmctrl -i -r "$first" -e 0,40,60,500,340
wmctrl -i -r "$second" -e 0,620,300,500,340

step "each has its VM's colour"
[ "$(border "$first")" != "$(border "$second")" ] || fail "both borders are $(border "$first")"
import -window root "$pictures/07-two-vms.png"

step "keys reach the one that has the keyboard"
for name in "$vm" "$other"; do
    xdotool windowactivate --sync "$(window "$name")"
    xdotool type --delay 40 "echo $name >/tmp/who"$'\n'
    wait_for 30 "what was typed in $name" typed "$name"
done

step "the end of one VM takes its windows alone"
$hypervisor stop "$other" --force || fail "stop"
wait_for 20 "its windows to go" gone window "$other"
window "$vm" >"$work/last" || fail "the first VM's window went, too"
$hypervisor exec "$vm" -- pkill xterm
wait_for 30 "the last window to go" gone window "$vm"

echo "all of it held"

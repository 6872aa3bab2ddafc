#!/bin/bash
# The guest's windows on the desktop, as a person works with them. Run on the host, with a display in $DISPLAY, a window
# manager on it, and the VM running; its guest has a user `guest` in session and these programs: xterm, l3afpad (GTK),
# featherpad (Qt), galculator, xdotool, xprop, xwininfo. On the host xdotool, wmctrl, xprop, xwininfo, xclip and import look and
# press: no program that checks is ours. A picture of the desktop is left after each step.
#
# windows.sh VM FOLDER
set -uo pipefail
vm=$1
pictures=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hypervisor=macrohard-hypervisor
mkdir -p "$pictures"
count=0

step() { echo "* $*"; }
picture() {
    count=$((count + 1))
    import -window root "$pictures/$(printf %02d $count)-$1.png" || fail "no picture of the desktop"
}
fail() {
    echo "FAILED: $*"
    import -window root "$pictures/failed.png"
    $hypervisor status "$vm"
    $hypervisor windows "$vm"
    wmctrl -lxGp
    $hypervisor logs "$vm" | tail -n 20
    guest journalctl --user -n 30 --no-pager -o cat
    exit 1
}
# wait_for SECONDS WHAT COMMAND...: waits until a command succeeds; three times as long as it should take at most.
wait_for() {
    local end=$((SECONDS + 3 * $1)) what=$2
    shift 2
    until "$@" >"$work/last" 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $what; the last said: $(cat "$work/last")"
        sleep 0.3
    done
}
guest() { $hypervisor exec --wait 120 "$vm" -- "$@"; }
# in_session COMMAND: a shell's command in the guest, with the display of its windows.
in_session() {
    guest sh -c 'eval "$(systemctl --user show-environment | sed -n "s/^\(DISPLAY\|XAUTHORITY\)=/export \1=/p")"; '"$1"
}
gone() { ! "$@"; }
# window PATTERN: the X11 id of the desktop's window whose class and title match.
window() { wmctrl -lx | grep -E -- "$1" | head -n 1 | cut -d ' ' -f 1 | grep .; }
# title PATTERN: a window of the desktop has it.
titled() { wmctrl -l | grep -qE -- "$1"; }
# place ID: X Y WIDTH HEIGHT of a window of the desktop, without the frame.
place() {
    xwininfo -id "$1" | awk '/Absolute upper-left X/ {x=$NF} /Absolute upper-left Y/ {y=$NF} /Width:/ {w=$NF} /Height:/ {h=$NF} END {print x, y, w, h}'
}
# guest_window NAME: the id of the guest's window with this in its title.
guest_window() { in_session "xdotool search --onlyvisible --name '$1' | tail -n 1" | grep .; }
# told ID FIELD: what `windows` says of the window with this X11 id.
told() {
    $hypervisor windows "$vm" --json | python3 -c '
import json, sys
host, field = int(sys.argv[1], 0), sys.argv[2]
print(*[w[field] for w in json.load(sys.stdin) if w.get("host") == host])' "$1" "$2" | grep .
}
type_into() {
    xdotool windowactivate --sync "$1" && shift && xdotool type --delay 40 "$@"
}

step "seamless windows are on"
$hypervisor seamless "$vm" --enable || fail "seamless --enable"
wait_for 120 "the session's applications" sh -c "$hypervisor apps $vm | grep -q xterm"

step "a terminal"
$hypervisor launch "$vm" debian-xterm || fail "launch"
wait_for 120 "its window" window 'xterm'
terminal=$(window xterm)
class=$(sed -n 's/^StartupWMClass=//p' "${XDG_DATA_HOME:-$HOME/.local/share}"/applications/org.macrohard.*.debian-xterm.desktop)
xprop -id "$terminal" WM_CLASS | grep -qF "\"$class\"" || fail "the launcher's class $class is not that of the window: $(xprop -id "$terminal" WM_CLASS)"
picture terminal

step "keys"
type_into "$terminal" "echo 'Typed: (by) a_person!' >/tmp/typed"$'\n'
typed() { [ "$(guest cat /tmp/typed)" = 'Typed: (by) a_person!' ]; }
wait_for 30 "what was typed" typed

step "a title"
# The prompt of Debian's shell sets a title of its own.
type_into "$terminal" "PS1='\$ '; printf '\\033]0;titled by the guest\\007'"$'\n'
wait_for 30 "the title" titled 'titled by the guest'
xprop -id "$terminal" _NET_WM_NAME WM_NAME | grep -q "$vm" || titled "$vm.*titled by the guest" || fail "the title does not name the VM"

step "moved and resized on the host"
wmctrl -i -r "$terminal" -e 0,120,90,640,420 || fail "wmctrl"
# agrees: the guest's window is where the desktop shows it, within the border of two pixels.
agrees() {
    local id x y width height guests
    id=$(guest_window 'titled by the guest') || return 1
    guests=$(in_session "xwininfo -id $id" | awk '/Absolute upper-left X/ {x=$NF} /Absolute upper-left Y/ {y=$NF} /Width:/ {w=$NF} /Height:/ {h=$NF} END {print x, y, w, h}')
    read -r x y width height <<<"$(place "$terminal")"
    echo "guest: $guests; host: $x $y $width $height; told: $(told "$terminal" x) $(told "$terminal" y) $(told "$terminal" width) $(told "$terminal" height)"
    [ "$guests" = "$((x + 2)) $((y + 2)) $((width - 4)) $((height - 4))" ]
}
wait_for 30 "the guest's window at the same place" agrees
step "moved in the guest"
in_session "xdotool windowmove $(guest_window 'titled by the guest') 300 200" || fail "xdotool in the guest"
moved() { local x y; read -r x y _ <<<"$(place "$terminal")"; echo "$x $y"; [ "$x" -ge 280 ] && [ "$x" -le 320 ] && [ "$y" -ge 180 ] && [ "$y" -le 230 ]; }
wait_for 30 "the host's window there" moved
wait_for 30 "both at the same place" agrees

step "maximized"
wmctrl -i -r "$terminal" -b add,maximized_vert,maximized_horz
in_guest_maximized() { in_session "xprop -id $(guest_window 'titled by the guest') _NET_WM_STATE" | grep -q MAXIMIZED_VERT; }
wait_for 30 "the guest to know" in_guest_maximized
wmctrl -i -r "$terminal" -b remove,maximized_vert,maximized_horz
wait_for 30 "the guest to know the end" gone in_guest_maximized

step "an editor of GTK, its menu and the clipboard"
$hypervisor launch "$vm" l3afpad || fail "launch"
wait_for 120 "its window" window 'l3afpad'
editor=$(window l3afpad)
wmctrl -i -r "$editor" -e 0,60,60,520,360
type_into "$editor" "of a guest's window"
xdotool key ctrl+a ctrl+c
pasted() { [ "$(timeout 10 xclip -selection clipboard -o)" = "of a guest's window" ]; }
wait_for 30 "it on the host's clipboard" pasted
popups() { $hypervisor windows "$vm" --json | python3 -c 'import json, sys; sys.exit(not any(w["popup"] for w in json.load(sys.stdin)))'; }
xdotool windowactivate --sync "$editor" key --window 0 alt+f
wait_for 30 "the menu" popups
picture menu
xdotool key Escape
wait_for 30 "its end" gone popups

step "a program of Qt"
$hypervisor launch "$vm" featherpad || fail "launch"
wait_for 120 "its window" window 'featherpad'
qt=$(window featherpad)
wmctrl -i -r "$qt" -e 0,420,260,480,320
type_into "$qt" "windows of Linux guests"
picture programs

step "a click at its place"
$hypervisor launch "$vm" galculator || fail "launch"
wait_for 120 "the calculator" window 'galculator'
calculator=$(window galculator)
type_into "$calculator" "6*7="
xdotool key ctrl+c
result() { [ "$(timeout 10 xclip -selection clipboard -o)" = 42 ]; }
wait_for 30 "the result on the host's clipboard" result
picture calculator

step "pictures of windows"
id=$(told "$terminal" id)
$hypervisor screenshot "$vm" --window "$id" --output "$work/window.png" || fail "screenshot"
[ "$(identify -format '%m %w %h' "$work/window.png")" = "PNG $(told "$terminal" width) $(told "$terminal" height)" ] ||
    fail "the picture is $(identify "$work/window.png")"

step "the agents are killed in the middle"
before=$(guest pgrep -x xterm)
guest systemctl --user kill --signal=KILL macrohard-guest-session.service
shown=$(window xterm)
changed() { local now; now=$(window xterm) && [ "$now" != "$shown" ]; }
wait_for 120 "a new window in the old one's place" changed
wait_for 60 "the editor again" window l3afpad
[ "$(guest pgrep -x xterm)" = "$before" ] || fail "the terminal did not live on"
terminal=$(window xterm)

step "the compositor is killed"
shown=$(window xterm)
kill -KILL "$(cat "$XDG_RUNTIME_DIR"/macrohard/vms/"$vm"*/compositor.pid)" || fail "no compositor"
wait_for 60 "another window in the old one's place" changed
wait_for 60 "all windows again" window featherpad
wait_for 60 "the terminal again" window xterm
terminal=$(window xterm)
type_into "$terminal" "echo later >/tmp/typed"$'\n'
later() { [ "$(guest cat /tmp/typed)" = later ]; }
wait_for 30 "keys to reach the guest" later

step "the toggle: the same programs on the guest's screen, under its own window manager"
[ "$(guest ps -C Xorg -o user=)" = guest ] || fail "no X server of the user's is on the guest's screen"
# As all windows can be seen; the agents and the compositor have opened others than before.
editor=$(window l3afpad) qt=$(window featherpad) calculator=$(window galculator)
wmctrl -i -r "$editor" -e 0,30,30,470,250
wmctrl -i -r "$qt" -e 0,530,30,460,260
wmctrl -i -r "$calculator" -e 0,620,330,-1,-1
wmctrl -i -r "$terminal" -e 0,30,330,540,300
# A colour that nothing else has, and a command that is typed to its end over there.
colour='#2e7d5b'
type_into "$terminal" "clear; printf '\\033]11;$colour\\007'"$'\n'
xdotool type --delay 40 "echo begun here, "
# text FILE: a picture of the editor, with what was typed into it.
text() { local id; id=$(told "$editor" id) && $hypervisor screenshot "$vm" --window "$id" --output "$1"; }
# differing ONE OTHER: thousandths of two pictures' pixels that are not the same.
differing() {
    local all
    all=$(identify -format '%[fx:w*h]' "$1")
    printf '%.0f' "$(compare -metric AE -fuzz 10% "$1" "$2" null: 2>&1 | awk -v all="$all" '{ print 1000 * $1 / all }')"
}
text "$work/text-empty.png" || fail "no picture of the editor"
# Short lines: an editor that scrolls sideways may do so differently at the window's sizes in between.
type_into "$editor" "Not saved, but seen again."
xdotool key Return
xdotool type --delay 40 "A second line of it."
typed() {
    text "$work/text-early.png" && sleep 1 && text "$work/text-before.png" || return 1
    [ "$(differing "$work/text-empty.png" "$work/text-before.png")" -gt 5 ] && [ "$(differing "$work/text-early.png" "$work/text-before.png")" -lt 2 ]
}
wait_for 60 "the text in the editor" typed
wmctrl -i -a "$terminal"
wait_for 30 "the terminal's keyboard" sh -c '[ "$(xdotool getactivewindow)" = "$(printf %d "$1")" ]' - "$terminal"
stood=$(place "$terminal")
$hypervisor seamless "$vm" --toggle || fail "seamless --toggle"
wait_for 60 "no windows of applications" gone window 'xterm|l3afpad|featherpad'
wait_for 30 "the guest's screen" sh -c "$hypervisor seamless $vm | grep -q '^desktop, 1 window'"
wait_for 30 "its window" window 'org.macrohard.*.screen'
screen=$(window 'org.macrohard.*.screen')
# screenshot: the guest's screen without the border.
screenshot() { $hypervisor screenshot "$vm" --output "$work/shot.png" && convert "$work/shot.png" -shave 2x2 +repage "$work/screen.png"; }
# framed: on the guest's screen the terminal's colour is where the terminal is, and above it a bar of its window manager.
framed() {
    local id x y width height top seen
    screenshot || return 1
    id=$(guest_window 'titled by the guest') || return 1
    read -r x y width height <<<"$(in_session "xwininfo -id $id" | awk '/Absolute upper-left X/ {x=$NF} /Absolute upper-left Y/ {y=$NF} /Width:/ {w=$NF} /Height:/ {h=$NF} END {print x, y, w, h}')"
    top=$(in_session "xprop -id $id _NET_FRAME_EXTENTS" | sed -n 's/.*= [0-9]*, [0-9]*, \([0-9]*\), .*/\1/p')
    seen=$(convert "$work/screen.png" -crop "${width}x$height+$x+$y" +repage -fill white -opaque "$colour" -fill black +opaque white -format '%[fx:int(100*mean)]' info:)
    bar=$(convert "$work/screen.png" -crop "${width}x$top+$x+$((y - top))" +repage -unique-colors -format %w info:)
    echo "content: $x $y $width $height, $seen % in its colour; $bar colours in $top rows above it"
    [ "$seen" -gt 80 ] && [ "${top:-0}" -ge 10 ] && [ "$bar" -gt 8 ]
}
wait_for 60 "the terminal in a frame of the guest's window manager" framed
picture desktop-mode
cp "$work/screen.png" "$pictures/screen.png"
xdotool windowactivate --sync "$screen" type --window 0 --delay 60 "ended there >/tmp/typed"$'\n'
both() { [ "$(guest cat /tmp/typed)" = "begun here, ended there" ]; }
wait_for 30 "a command typed in both modes" both

step "another size of the screen"
wmctrl -i -r "$screen" -e 0,30,30,904,664
mode() { in_session 'xwininfo -root' | awk '/Width:/ {w=$NF} /Height:/ {h=$NF} END {print w, h}'; }
resized() { mode; [ "$(mode)" = "900 660" ]; }
wait_for 60 "the guest's mode" resized
pixels() { screenshot && [ "$(identify -format '%w %h' "$work/screen.png")" = "900 660" ]; }
wait_for 30 "a picture of this size" pixels
[ "$(window 'org.macrohard.*.screen')" = "$screen" ] || fail "the screen has got another window"
picture desktop-mode-resized

step "the agent is killed in desktop mode"
managed() { guest pgrep -f x-window-manager; }
before_it=$(managed) || fail "no window manager"
guest systemctl --user kill --signal=KILL macrohard-guest-session.service
another() { local now; now=$(managed) && [ "$now" != "$before_it" ] && framed; }
wait_for 120 "its next run to give the windows to the window manager" another
[ "$(guest pgrep -x xterm)" = "$before" ] || fail "the terminal did not live on"

step "windows again"
$hypervisor seamless "$vm" --toggle || fail "seamless --toggle"
wait_for 60 "the windows again" window xterm
wait_for 60 "all windows again" window l3afpad
wait_for 30 "the screen's window to go" gone window 'org.macrohard.*.screen'
[ "$(guest pgrep -x xterm)" = "$before" ] || fail "the terminal did not live on"
wait_for 30 "the end of the guest's window manager" gone managed
terminal=$(window xterm)
editor=$(window l3afpad)
same() { place "$terminal"; [ "$(place "$terminal")" = "$stood" ]; }
wait_for 30 "the terminal at its place ($stood)" same
shot() {
    id=$(told "$terminal" id) && $hypervisor screenshot "$vm" --window "$id" --output "$work/window.png" || return 1
    [ "$(convert "$work/window.png" -fill white -opaque "$colour" -fill black +opaque white -format '%[fx:int(100*mean)]' info:)" -gt 80 ]
}
wait_for 30 "the terminal's colour" shot
# The same but for the cursor; programs draw otherwise while they have not the keyboard.
xdotool windowactivate --sync "$editor"
unlost() {
    text "$work/text-after.png" || return 1
    echo "$(differing "$work/text-before.png" "$work/text-after.png") of 1000 pixels of the editor differ"
    [ "$(differing "$work/text-before.png" "$work/text-after.png")" -lt 3 ]
}
wait_for 30 "the text that was not saved" unlost
picture seamless-again

step "closed"
terminal=$(window xterm)
wmctrl -i -c "$terminal"
wait_for 60 "the terminal's end in the guest" gone guest pgrep -x xterm
wait_for 30 "its window's end" gone window xterm
for program in l3afpad featherpad galculator; do guest pkill "$program"; done
wait_for 60 "no windows" gone window 'l3afpad|featherpad|galculator'

echo "all of it held"

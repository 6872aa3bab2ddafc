#!/bin/bash
# Applications, clipboard, shares, files opened in the guest, policy, and the agents killed in the middle, from one X
# server to another: those of the lab machine and of a guest with a Debian userland, which is the lab machine's own.
# lab: memory=3072 cpus=2 limit=1500 long
. /lab/lib.sh
. /lab/userland.sh

userland_initrd initrd <<'END'
as_guest Xvfb :0 -screen 0 800x600x24 -nolisten tcp >/tmp/xvfb.log 2>&1 &
while :; do macrohard-guest-agent system; sleep 1; done &
while :; do as_guest DISPLAY=:0 dbus-run-session -- macrohard-guest-agent session; sleep 1; done
END
Xvfb :9 -screen 0 800x600x24 -nolisten tcp >xvfb.log 2>&1 &
export DISPLAY=:9
wait_for 30 "the host's X server" test -S /tmp/.X11-unix/X9
macrohard-hypervisor create --name desktop --engine "$engine" --memory 1024 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" --share "$userland:ro:virtio-fs" || fail "create"
macrohard-hypervisor start desktop || fail "start"
start=$(now)
/lab/end-to-end.sh desktop || {
    macrohard-hypervisor logs desktop --console >desktop.console
    fail "the guest is no part of the desktop"
}
figure seconds "$(since "$start")"
launchers() { find ~/.local/share -name 'org.macrohard.*' | grep .; }
macrohard-hypervisor stop desktop --force || fail "stop"
launchers >/dev/null || fail "the launchers went with the run"
step "an application of a stopped VM starts it"
macrohard-hypervisor launch desktop l3afpad --wait 300 || fail "launch"
macrohard-hypervisor exec desktop -- pgrep l3afpad >/dev/null || fail "the editor does not run"
macrohard-hypervisor stop desktop --force || fail "stop"
macrohard-hypervisor delete desktop --yes || fail "delete"
wait_for 10 "the end of the launchers" sh -c '! find ~/.local/share -name "org.macrohard.*" | grep .'

#!/bin/bash
# A paste in the guest of a mebibyte of text copied on the host, beside the same mebibyte over bare vsock. The paste is
# xclip's, from its start to its end: through the guest's X server, the agents and the host's X server to the other xclip.
# lab: memory=3072 cpus=2 limit=2400
#
# In real time: where instructions are counted a guest with two X servers stalls in its boot (docs/src/lab.md). What is
# compared takes turns in one guest, so that whatever else runs beside the lab machine meets both alike, and the median of
# the turns counts. The way is split: what the guest's agent waits for the content, of that what the daemon waits for the host's X server and the xclip behind
# it, and the rest, which is ours: from the agent's request to the last byte, checked. Beside them, what X costs without us:
# a paste from an xclip in the guest itself, and one on the host; and xclip with three bytes, which is what starting it costs.
. /lab/lib.sh

turns=5
each=5
# An X server and xclip with what they need, beside the guest's busybox: a whole userland takes a guest minutes.
mkdir -p add/etc add/home/guest add/usr/share/X11
for program in Xvfb xkbcomp xclip setpriv; do
    # shellcheck disable=SC2046 # a word a library
    cp --parents -L /usr/bin/$program $(ldd /usr/bin/$program | grep -o '/[^ ]*') add/ || fail "no $program"
done
cp -rL /usr/share/X11/xkb add/usr/share/X11/ || fail "no keyboard tables"
printf 'root:x:0:0::/root:/bin/sh\nguest:x:1000:1000::/home/guest:/bin/sh\n' >add/etc/passwd
printf 'root:x:0:\nguest:x:1000:\n' >add/etc/group
guest_initrd initrd <<'END_OF_GUEST'
export PATH=/usr/bin:/bin LANG=C.UTF-8
mkdir -p /dev/shm /run/user/1000 /root /tmp/.X11-unix /var/lib/xkb
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /tmp /tmp/.X11-unix /dev/shm && chmod 0700 /run/user/1000 && chown 1000:1000 /run/user/1000 /home/guest
ip link set lo up
as_guest() { /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/guest USER=guest DISPLAY=:0 XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
cd /home/guest
for display in 0 1; do
    as_guest Xvfb :$display -screen 0 320x240x24 -nolisten tcp -ac -extension GLX >/tmp/xvfb.$display.log 2>&1 &
done
while [ ! -S /tmp/.X11-unix/X0 ] || [ ! -S /tmp/.X11-unix/X1 ]; do sleep 0.1; done
while :; do macrohard-guest-agent system; sleep 0.1; done &
touch /tmp/session.log && chown 1000:1000 /tmp/session.log
while :; do as_guest env MACROHARD_LOG=warn,guest_agent::clipboard=debug macrohard-guest-agent session 2>>/tmp/session.log; sleep 0.1; done
END_OF_GUEST
(cd add && find . | busybox cpio -o -H newc 2>/dev/null) >>initrd
Xvfb :9 -screen 0 320x240x24 -nolisten tcp >xvfb.log 2>&1 &
# The daemon's, which begins with the first command.
export DISPLAY=:9 MACROHARD_LOG=info,host_agent::daemon::desktop::clipboard=debug
wait_for 60 "the host's X server" test -S /tmp/.X11-unix/X9
head -c 786432 /dev/urandom | base64 -w 0 >large
[ "$(stat -c %s large)" = 1048576 ] || fail "the text is no mebibyte"
macrohard-hypervisor create --name clipboard --engine kvm --memory 512 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet maxcpus=1" || fail "create"
daemon_log=$(find "${XDG_STATE_HOME:-$HOME/.local/state}" -name daemon.log)
number() { sed -n 's/^nanoseconds \([0-9]*\)\r*$/\1/p' | tail -n 1; }
# guest COMMAND...: in the guest's session.
guest() { timeout 120 macrohard-hypervisor exec --wait 60 --env DISPLAY=:0 --env PATH=/usr/bin:/bin clipboard -- "$@"; }
# A guest now and then stalls in its boot (docs/src/lab.md): then it is started again.
: >turns
begin() {
    macrohard-hypervisor start clipboard || fail "start"
    guest true || { step "the guest has no agent"; return 1; }
    # The guest's own copy, on a display that is nobody's else.
    guest sh -c 'cat >/tmp/large; DISPLAY=:1 setsid xclip -selection clipboard -i /tmp/large >/dev/null 2>&1' <large || { step "nothing is copied in the guest"; return 1; }
    xclip -selection clipboard -i large >/dev/null 2>&1
    within 60 pasted && return 0
    step "nothing is pasted: $(guest tail -n 5 /tmp/session.log /tmp/xvfb.0.log)"
    return 1
}
# pasted: the guest has what the host has.
pasted() { [ "$(guest sh -c 'timeout 60 xclip -selection clipboard -o | md5sum')" = "$(md5sum <large)" ]; }
# turn: one line of figures; false when the guest stalls.
turn() {
    local socket raw serving whole agent desktop local host start
    socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
    rm -f "${socket}_7000"
    lab-tool serve "unix:${socket}_7000" 1 &
    serving=$!
    raw=$(guest lab-tool fetch vsock:2:7000 --count $each | number)
    kill $serving
    guest sh -c ': >/tmp/session.log'
    : >"$daemon_log"
    whole=$(guest lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    agent=$(guest cat /tmp/session.log | sed -n 's/.*content of the host is here.*nanoseconds=\([0-9]*\).*/\1/p' | median)
    desktop=$(sed -n 's/.*content of the desktop is here.*nanoseconds=\([0-9]*\).*/\1/p' "$daemon_log" | median)
    local=$(guest env DISPLAY=:1 lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    host=$(lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    printf abc | xclip -display :9 -selection secondary -i >/dev/null 2>&1
    start=$(lab-tool clock --count $each -- xclip -selection secondary -o | number)
    for figure in "$raw" "$whole" "$agent" "$desktop" "$local" "$host" "$start"; do
        [ -n "$figure" ] || { step "a figure is missing: raw $raw whole $whole agent $agent desktop $desktop local $local host $host start $start"; return 1; }
    done
    echo "$raw $whole ${agent%.*} ${desktop%.*} $local $host $start" >>turns
    step "turn: $(tail -n 1 turns)"
}
for ((attempt = 0; attempt < 6; attempt++)); do
    if begin; then
        while [ "$(wc -l <turns)" -lt $turns ] && turn; do :; done
    fi
    macrohard-hypervisor logs clipboard --console | tail -n 20 >clipboard.console
    macrohard-hypervisor stop clipboard --force
    [ "$(wc -l <turns)" -ge $turns ] && break
    step "the guest stalls: $(tail -n 5 clipboard.console)"
done
[ -s turns ] || fail "the guest stalls again and again"
column() { awk -v column="$1" '{ print $column }' turns | median; }
ours=$(awk '{ print $3 - $4 }' turns | median)
echo "compare our_part_of_a_paste_beside_bare_vsock ns lower $ours $(column 1)"
echo "compare agents_fetch_beside_bare_vsock ns lower $(column 3) $(column 1)"
echo "compare paste_beside_bare_vsock ns lower $(column 2) $(column 1)"
echo "compare paste_beside_one_without_us ns lower $(column 2) $(column 5)"
figure hosts_desktop_in_fetch_ns "$(column 4)"
figure paste_within_the_guest_ns "$(column 5)"
figure paste_on_the_host_ns "$(column 6)"
figure start_of_xclip_ns "$(column 7)"

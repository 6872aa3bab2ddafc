#!/bin/bash
# A paste in the guest of a mebibyte of text copied on the host, beside the same mebibyte over bare vsock. The paste is
# xclip's, from its start to its end: through the guest's X server, the agents and the host's X server to the other xclip.
# lab: memory=3072 cpus=1 limit=2400 icount
#
# The lab machine counts instructions, so a nanosecond is one of guest, kernel and processes together. Beside the whole
# paste: what the guest's agent waits for the content; a paste from an xclip in the guest itself, and one on the host, which
# are what X costs on either side without us; and xclip with three bytes, which is what starting it costs.
. /lab/lib.sh

turns=3
each=5
guest_initrd initrd <<'END_OF_GUEST'
mkdir -p /lower /upper /new
mount -t virtiofs system /lower || exit 2
mount -t tmpfs tmpfs /upper && mkdir /upper/data /upper/work || exit 3
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /new || exit 4
for folder in proc sys dev; do mount -o bind /$folder /new/$folder || exit 5; done
mount -t tmpfs tmpfs /new/run && mount -t tmpfs -o mode=1777 tmpfs /new/tmp || exit 6
mkdir -p /new/dev/shm /new/run/user/1000 /new/home/guest /new/tmp/.X11-unix
mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
chmod 1777 /new/tmp/.X11-unix && chmod 0700 /new/run/user/1000 && chown 1000:1000 /new/run/user/1000 /new/home/guest
grep -q ^guest: /new/etc/passwd || echo guest:x:1000:1000::/home/guest:/bin/bash >>/new/etc/passwd
grep -q ^guest: /new/etc/group || echo guest:x:1000: >>/new/etc/group
cp /bin/macrohard-guest-agent /bin/lab-tool /new/usr/bin/
cat >/new/start <<'START'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
ip link set lo up
as_guest() { setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/guest USER=guest DISPLAY=:0 XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
cd /home/guest
as_guest Xvfb :0 -screen 0 320x240x24 -nolisten tcp >/tmp/xvfb.log 2>&1 &
as_guest Xvfb :1 -screen 0 320x240x24 -nolisten tcp >/tmp/xvfb.log 2>&1 &
while [ ! -S /tmp/.X11-unix/X0 ] || [ ! -S /tmp/.X11-unix/X1 ]; do sleep 0.1; done
while :; do macrohard-guest-agent system; sleep 0.1; done &
while :; do as_guest env MACROHARD_LOG=warn,guest_agent::clipboard=debug macrohard-guest-agent session 2>>/tmp/session.log; sleep 0.1; done
START
exec chroot /new /bin/bash /start
END_OF_GUEST
mkdir system && mount --bind / system || fail "the lab machine's root cannot be bound"
Xvfb :9 -screen 0 320x240x24 -nolisten tcp >xvfb.log 2>&1 &
export DISPLAY=:9
wait_for 60 "the host's X server" test -S /tmp/.X11-unix/X9
head -c 786432 /dev/urandom | base64 -w 0 >large
[ "$(stat -c %s large)" = 1048576 ] || fail "the text is no mebibyte"
macrohard-hypervisor create --name clipboard --engine kvm --memory 768 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet maxcpus=1" --share "$work/system:system:ro:virtio-fs" || fail "create"
number() { sed -n 's/^nanoseconds \([0-9]*\)\r*$/\1/p' | tail -n 1; }
# guest COMMAND...: in the guest's session.
guest() { timeout 120 macrohard-hypervisor exec --wait 60 --env DISPLAY=:0 clipboard -- "$@"; }
# A guest now and then stalls where instructions are counted (docs/src/lab.md): then it is started again.
: >turns
begin() {
    macrohard-hypervisor start clipboard || fail "start"
    guest true || return 1
    # The guest's own copy, on a display that is nobody's else.
    guest sh -c 'cat >/tmp/large; DISPLAY=:1 setsid xclip -selection clipboard -i /tmp/large >/dev/null 2>&1' <large || { step "nothing is copied in the guest"; return 1; }
    xclip -selection clipboard -i large >/dev/null 2>&1
    within 60 pasted && return 0
    step "nothing is pasted: $(guest tail -n 5 /tmp/session.log /tmp/xvfb.log)"
    return 1
}
# pasted: the guest has what the host has.
pasted() { [ "$(guest sh -c 'timeout 60 xclip -selection clipboard -o | cksum')" = "$(cksum <large)" ]; }
# turn: one line of figures; false when the guest stalls.
turn() {
    local socket raw serving whole agent local host start
    socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
    rm -f "${socket}_7000"
    lab-tool serve "unix:${socket}_7000" 1 &
    serving=$!
    raw=$(guest lab-tool fetch vsock:2:7000 --count $each | number)
    kill $serving
    guest sh -c ': >/tmp/session.log'
    whole=$(guest lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    agent=$(guest cat /tmp/session.log | sed -n 's/.*content of the host is here.*nanoseconds=\([0-9]*\).*/\1/p' | median)
    local=$(guest env DISPLAY=:1 lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    host=$(lab-tool clock --count $each -- xclip -selection clipboard -o | number)
    printf abc | xclip -display :9 -selection secondary -i >/dev/null 2>&1
    start=$(lab-tool clock --count $each -- xclip -selection secondary -o | number)
    [ -n "$raw" ] && [ -n "$whole" ] && [ -n "$agent" ] && [ -n "$local" ] && [ -n "$host" ] && [ -n "$start" ] || return 1
    echo "$raw $whole ${agent%.*} $local $host $start" >>turns
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
echo "compare paste_beside_bare_vsock instructions lower $(column 2) $(column 1)"
echo "compare agents_fetch_beside_bare_vsock instructions lower $(column 3) $(column 1)"
figure paste_within_the_guest_instructions "$(column 4)"
figure paste_on_the_host_instructions "$(column 5)"
figure start_of_xclip_instructions "$(column 6)"

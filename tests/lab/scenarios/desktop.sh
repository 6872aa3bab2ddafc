#!/bin/bash
# Applications, clipboard, shares, files opened in the guest, policy, and the agents killed in the middle, from one X
# server to another: those of the lab machine and of a guest with a Debian userland, which is the lab machine's own.
# lab: memory=3072 cpus=1 limit=1500 long
#
# One CPU: with several, QEMU now and then undoes half a world switch when another loads x87 registers, as programs with
# windows do all the time; their guest then meets a triple fault (docs/src/lab.md).
. /lab/lib.sh

guest_initrd initrd <<'END'
mkdir -p /lower /upper /new
mount -t virtiofs system /lower || exit 2
mount -t tmpfs tmpfs /upper && mkdir /upper/data /upper/work || exit 3
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /new || exit 4
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
for folder in proc sys dev; do mount -o bind /$folder /new/$folder || exit 5; done
mount -t tmpfs tmpfs /new/run && mount -t tmpfs -o mode=1777 tmpfs /new/tmp || exit 6
mkdir -p /new/dev/shm /new/run/lock /new/run/user/1000 /new/home/guest /new/tmp/.X11-unix
mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
chmod 1777 /new/tmp/.X11-unix && chmod 0700 /new/run/user/1000 && chown 1000:1000 /new/run/user/1000 /new/home/guest
grep -q ^guest: /new/etc/passwd || echo guest:x:1000:1000::/home/guest:/bin/bash >>/new/etc/passwd
grep -q ^guest: /new/etc/group || echo guest:x:1000: >>/new/etc/group
cp /bin/macrohard-guest-agent /new/usr/bin/
cat >/new/start <<'START'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
ip link set lo up
as_guest() { setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/guest USER=guest DISPLAY=:0 XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
cd /home/guest
as_guest Xvfb :0 -screen 0 800x600x24 -nolisten tcp >/tmp/xvfb.log 2>&1 &
while :; do macrohard-guest-agent system; sleep 1; done &
while :; do as_guest dbus-run-session -- macrohard-guest-agent session; sleep 1; done
START
exec chroot /new /bin/bash /start
END
mkdir system && mount --bind / system || fail "the lab machine's root cannot be bound"
Xvfb :9 -screen 0 800x600x24 -nolisten tcp >xvfb.log 2>&1 &
export DISPLAY=:9
wait_for 30 "the host's X server" test -S /tmp/.X11-unix/X9
macrohard-hypervisor create --name desktop --engine "$engine" --memory 1024 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" --share "$work/system:system:ro:virtio-fs" || fail "create"
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

# Read by scenarios whose guest has a Debian userland: the lab machine's own, over virtio-fs, with a layer in memory.

# What the guest shares, for `--share`.
mkdir "$work/system" && mount --bind / "$work/system" || fail "the lab machine's root cannot be bound"
userland=$work/system:system

# userland_initrd FILE: an initrd of a guest that runs what standard input says in that userland, as root in the home of
# user `guest` (1000); `as_guest COMMAND` there is that user's.
userland_initrd() {
    {
        cat <<'END'
mkdir -p /lower /upper /new
mount -t virtiofs system /lower || exit 2
mount -t tmpfs tmpfs /upper && mkdir /upper/data /upper/work || exit 3
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /new || exit 4
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
for folder in proc sys dev; do mount -o rbind /$folder /new/$folder || exit 5; done
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
as_guest() { setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/guest USER=guest XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
cd /home/guest
END
        cat
        printf 'START\nexec chroot /new /bin/bash /start\n'
    } | guest_initrd "$1"
}

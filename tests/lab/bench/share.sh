#!/bin/bash
# `git status` of a tree of a thousand files and reading a large file in pieces of 64 MiB on a shared folder, over 9P and
# over virtio-fs, beside QEMU's 9P server and QEMU with the same virtiofsd.
# lab: memory=2048 cpus=1 limit=3600 icount
#
# Instructions are counted, so what runs beside the lab machine does not matter and one guest is measured after the other.
# The large file is a hole of 1 GiB, so that no memory is short; each byte that is read is carried all the same. Both guests
# give memory back that they do not use (free page reporting), as ours always do: what a guest's page cache takes after that
# costs the host a fault a page.
. /lab/lib.sh

# Turns of each measurement that are wanted, and guests that may be started for them: where instructions are counted a
# guest is given an interrupt twice now and then, and rarely survives it (docs/src/lab.md). Thousands of requests are as many
# occasions.
turns=2
guests=24
mkdir tree && cd tree && export HOME=$work || fail "no folder"
git init -q . && git config user.name lab && git config user.email lab@example.org || fail "git init"
for ((folder = 0; folder < 40; folder++)); do
    mkdir "f$folder"
    for ((file = 0; file < 25; file++)); do echo "$folder $file" >"f$folder/$file"; done
done
# The index holds for a copy of the tree, too: size and time of modification tell whether a file is as it was.
git config core.checkStat minimal && git config core.trustctime false && git config core.untrackedCache false || fail "git config"
find . -name .git -prune -o -type f -exec touch -d yesterday {} +
git add . && git commit -q -m tree || fail "git commit"
cd "$work" || exit 1
# git and what it needs, beside the guest's busybox.
mkdir -p add/etc
echo root:x:0:0::/root:/bin/sh >add/etc/passwd
cp --parents -L /usr/bin/git $(ldd /usr/bin/git | grep -o '/[^ ]*') add/
guest_initrd initrd <<'END'
mkdir -p /9p /virtiofs /root
export HOME=/root GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_OPTIONAL_LOCKS=0
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 plan9 /9p || exit 2
mount -t virtiofs fs /virtiofs || exit 3
# The first measurement is another one in each guest.
turn=$(sed 's/.*turn=\([0-9]*\).*/\1/' /proc/cmdline)
while :; do
    turn=$((turn + 1))
    [ $((turn % 2)) = 0 ] && way=9p || way=virtiofs
    # What is free for two seconds is given back.
    echo 3 >/proc/sys/vm/drop_caches
    sleep 3
    cd /$way/tree || exit 4
    case $((turn / 2 % 2)) in
    0) result="read $(lab-tool clock -- dd if=/$way/large of=/dev/null bs=1M skip=$((turn / 4 % 16 * 64)) count=64 2>/dev/null)" ;;
    1) result="status $(lab-tool clock -- /usr/bin/git status --short)" ;;
    esac
    echo "turn ${way}_$result"
done
END
(cd add && find . | busybox cpio -o -H newc 2>/dev/null) >>initrd

# guest NAME TURN: becomes the guest NAME, whose console is on standard output.
guest() {
    for way in 9p fs; do
        [ -d "$1.$way" ] && continue
        mkdir "$1.$way" && cp -a tree "$1.$way/tree" && truncate -s 1G "$1.$way/large" || fail "no folder to share"
    done
    # The second CPU is not used: with it a guest that stalls halts, and its time is soon over; without it spins.
    local words="$quiet maxcpus=1 turn=$2"
    if [ "$1" = ours ]; then
        exec timeout 60 macrohard-hypervisor run --engine kvm --memory 512 --cpus 2 --net none --kernel "$kernel" \
            --initrd "$work/initrd" --append "$words" --share "$work/ours.9p:plan9:9p" --share "$work/ours.fs:fs:virtio-fs"
    fi
    rm -f fs.sock
    /usr/libexec/virtiofsd --socket-path=fs.sock --shared-dir "$work/qemu.fs" --cache=auto --log-level=warn 2>virtiofsd.log &
    within 60 test -S fs.sock || fail "virtiofsd: $(cat virtiofsd.log)"
    exec timeout 60 qemu-system-x86_64 -accel kvm -machine q35,memory-backend=ram -cpu host -m 512 -smp 2 -nodefaults \
        -no-user-config -display none -no-reboot -serial stdio -kernel "$kernel" -initrd initrd -append "$words" \
        -object "memory-backend-memfd,id=ram,size=512M,share=on" \
        -fsdev "local,id=plan9,path=$work/qemu.9p,security_model=none" -device "virtio-9p-pci,fsdev=plan9,mount_tag=plan9" \
        -chardev "socket,id=fs,path=fs.sock" -device "vhost-user-fs-pci,chardev=fs,tag=fs" \
        -device "virtio-balloon-pci,free-page-reporting=on"
}
# enough NAME: whether each measurement of NAME has all its turns.
enough() {
    awk -v turns=$turns '$1 == "turn" && $3 == "nanoseconds" { taken[$2]++ }
        END { for (what in taken) done += taken[what] >= turns; exit done != 4 }' "$1.console"
}
for name in ours qemu; do
    : >$name.console
    for ((number = 0; number < guests; number++)); do
        coproc { guest $name $number </dev/null 2>&1; }
        process=$COPROC_PID
        while read -r -u "${COPROC[0]}" line; do
            echo "${line%$'\r'}" >>$name.console
            enough $name && break
        done
        # `timeout` hands it on.
        kill "$process" 2>/dev/null
        wait "$process" 2>/dev/null
        enough $name && break
    done
    enough $name || fail "too few turns of $name: $(tail -n 20 $name.console)"
    step "$name: $(grep -c '^turn' $name.console) turns of $((number + 1)) guests"
done
# cost NAME MEASUREMENT: milliseconds, the median.
cost() { awk -v what="$2" '$1 == "turn" && $2 == what { print $4 / 1e6 }' "$1.console" | median; }
for way in 9p virtiofs; do
    echo "compare git_status_$way ms lower $(cost ours ${way}_status) $(cost qemu ${way}_status)"
    echo "compare read_64_mib_$way ms lower $(cost ours ${way}_read) $(cost qemu ${way}_read)"
done

#!/bin/bash
# `git status` of a tree of a thousand files and reading a file of 1 GiB on a shared folder, over 9P and over virtio-fs,
# beside QEMU's 9P server and QEMU with the same virtiofsd.
# lab: memory=3072 cpus=1 limit=5400
#
# In real time: a tree of a thousand files takes thousands of requests, each with an interrupt, and where instructions
# are counted a guest that is given one twice stalls (docs/src/lab.md). Both guests live at once and take turns, so that
# whatever else runs beside the lab machine meets both alike; the best turn of each counts. The large file is a hole, so
# that no memory is short; each byte of it is carried all the same. Both give memory back that the guest does not use (free
# page reporting), as ours always does: what the guest's page cache takes after that costs the host a fault a page.
. /lab/lib.sh

turns=5
# Turns that are enough when a guest stalls after them (docs/src/lab.md).
enough=3
# Seconds in which a guest says something; the lab machine may get little of a busy host.
patience=400
# In its boot it says more often; one that does not stalls (docs/src/lab.md), and is started again.
boot_patience=200
mkdir tree && cd tree && export HOME=$work || fail "no folder"
git init -q . && git config user.name lab && git config user.email lab@example.org || fail "git init"
for ((folder = 0; folder < 40; folder++)); do
    mkdir "f$folder"
    for ((file = 0; file < 25; file++)); do echo "$folder $file" >"f$folder/$file"; done
done
git add . && git commit -q -m tree || fail "git commit"
cd "$work" || exit 1
truncate -s 1G large
# git and what it needs, beside the guest's busybox.
mkdir -p add/etc
echo root:x:0:0::/root:/bin/sh >add/etc/passwd
cp --parents -L /usr/bin/git $(ldd /usr/bin/git | grep -o '/[^ ]*') add/
guest_initrd initrd <<'END'
mkdir -p /9p /virtiofs /root
export HOME=/root GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_CONFIG_KEY_1=core.untrackedCache GIT_CONFIG_VALUE_1=false
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 plan9 /9p || exit 2
mount -t virtiofs fs /virtiofs || exit 3
for way in 9p virtiofs; do
    # The first look at a tree that was copied reads every file; its result is kept in the tree.
    cd /$way/tree && /usr/bin/git status --short || exit 4
done
echo "guest: ready"
while read -r order; do
    [ "$order" = turn ] || break
    results=
    for way in 9p virtiofs; do
        echo 3 >/proc/sys/vm/drop_caches
        cd /$way/tree || exit 5
        results="$results ${way}_status $(GIT_OPTIONAL_LOCKS=0 lab-tool clock -- /usr/bin/git status --short)" || exit 6
        results="$results ${way}_read $(lab-tool clock -- dd if=/$way/large of=/dev/null bs=1M)" || exit 7
    done
    # One line at the end: the console would disturb what is measured.
    echo "turn:$results"
done
exit 0
END
(cd add && find . | busybox cpio -o -H newc 2>/dev/null) >>initrd
declare -A keys screen process
# until_line NAME TEXT SECONDS: reads the console of NAME, without a process of its own, up to a line with TEXT; false
# when nothing comes in that time.
until_line() {
    local line
    while read -r -t "$3" -u "${screen[$1]}" line; do
        echo "${line%$'\r'}" >>"$1.console"
        case $line in
        *"$2"*) return 0 ;;
        *"guest: ends with"*) return 1 ;;
        esac
    done
    return 1
}
# up NAME: starts the guest NAME, whose console is NAME.in and NAME.out; false when it does not come up.
up() {
    local name=$1 command
    rm -f "$name.in" "$name.out" fs.sock
    mkfifo "$name.in" "$name.out"
    exec {keys[$name]}<>"$name.in" {screen[$name]}<>"$name.out"
    for way in 9p fs; do
        [ -d "$name.$way" ] && continue
        mkdir "$name.$way" && cp -a tree "$name.$way/tree" && truncate -s 1G "$name.$way/large" || fail "no folder to share"
    done
    if [ "$name" = ours ]; then
        command=(macrohard-hypervisor run --engine kvm --timeout 5000 --memory 512 --cpus 1 --net none --kernel "$kernel"
            --initrd "$work/initrd" --append "$quiet" --share "$work/ours.9p:plan9:9p" --share "$work/ours.fs:fs:virtio-fs")
    else
        /usr/libexec/virtiofsd --socket-path=fs.sock --shared-dir "$work/qemu.fs" --cache=auto --log-level=warn 2>virtiofsd.log &
        disown
        within 60 test -S fs.sock || fail "virtiofsd: $(cat virtiofsd.log)"
        command=(qemu-system-x86_64 -accel kvm -machine q35,memory-backend=ram -cpu host -m 512 -smp 1 -nodefaults -no-user-config
            -display none -no-reboot -serial stdio -device "isa-debug-exit,iobase=0xf4,iosize=4" -kernel "$kernel" -initrd initrd
            -append "$quiet" -object "memory-backend-memfd,id=ram,size=512M,share=on"
            -fsdev "local,id=plan9,path=$work/qemu.9p,security_model=none" -device "virtio-9p-pci,fsdev=plan9,mount_tag=plan9"
            -chardev "socket,id=fs,path=fs.sock" -device "vhost-user-fs-pci,chardev=fs,tag=fs"
            -device "virtio-balloon-pci,free-page-reporting=on")
    fi
    "${command[@]}" <"$name.in" >"$name.out" 2>&1 &
    process[$name]=$!
    disown
    until_line "$name" "guest: ready" $boot_patience
}
# cost NAME MEASUREMENT: milliseconds of the best turn.
cost() {
    awk -v measurement="$2" '$1 == "turn:" { for (i = 2; i < NF; i++) if ($i == measurement) print $(i + 2) / 1e6 }' "$1.console" |
        sort -g | head -n 1
}
# last NAME: milliseconds of the last turn.
last() { awk '$1 == "turn:" { at = ""; for (i = 2; i < NF; i++) if ($i == "nanoseconds") at = at sprintf(" %.1f", $(i + 1) / 1e6) } END { print substr(at, 2) }' "$1.console"; }
for name in ours qemu; do
    for attempt in 1 2 3; do
        up $name && break
        kill -KILL "${process[$name]}" 2>/dev/null
        step "the guest of $name does not come up ($attempt): $(tail -n 3 "$name.console")"
        [ "$attempt" != 3 ] || fail "the guest of $name stalls again and again"
    done
    step "the guest of $name is up after $SECONDS s"
done
for ((turn = 1; turn <= turns; turn++)); do
    for name in ours qemu; do
        echo turn >&"${keys[$name]}"
        until_line $name turn: $patience && continue
        [ $turn -gt $enough ] || fail "the guest of $name ends or stalls: $(tail -n 3 "$name.console")"
        step "the guest of $name stalls in turn $turn: the turns before count"
        break 2
    done
    # Milliseconds: status and read over 9P, status and read over virtio-fs.
    step "turn $turn after $SECONDS s: ours $(last ours), QEMU $(last qemu)"
done
kill -KILL "${process[@]}" 2>/dev/null
for way in 9p virtiofs; do
    echo "compare git_status_$way ms lower $(cost ours ${way}_status) $(cost qemu ${way}_status)"
    echo "compare read_1_gib_$way ms lower $(cost ours ${way}_read) $(cost qemu ${way}_read)"
done

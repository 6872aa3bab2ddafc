#!/bin/bash
# Random reads of 4 KiB and sequential reads of 1 MiB from a virtio disk, raw and qcow2, beside QEMU's
# virtio-blk, plain and with a thread and an io_uring of its own, on files in a RAM disk.
# lab: memory=3072 cpus=1 limit=3000 icount
#
# The lab machine counts instructions, so a nanosecond of the guest's clock is one: of guest, kernel and process
# together. Figures repeat within some percent, whatever else runs beside the lab machine. All guests live at once and
# take turns; the median turn counts. A guest now and then stalls where instructions are counted (docs/src/lab.md); then
# the turns it had so far count.
#
# The second processor of each guest stays unused: see stream.sh.
. /lab/lib.sh

turns=3
guest_initrd initrd <<'END'
echo "guest: ready"
while read -r order; do
    [ "$order" = turn ] || break
    results=
    for disk in raw:vda qcow2:vdb; do
        device=/dev/${disk#*:}
        results="$results ${disk%:*}_random $(lab-tool read-disk $device --block 4096 --count 300 --random)" || exit 2
        results="$results ${disk%:*}_sequential $(lab-tool read-disk $device --block 1048576 --count 8)" || exit 3
    done
    # One line at the end: the console would disturb what is measured.
    echo "turn:$results"
done
exit 0
END
# guest NAME COMMAND...: a guest whose console is NAME.in and NAME.out.
guest() {
    local name=$1
    shift
    mkfifo "$name.in" "$name.out"
    exec {keys[$name]}<>"$name.in" {screen[$name]}<>"$name.out"
    "$@" <"$name.in" >"$name.out" 2>&1 &
    process[$name]=$!
    until_line "$name" "guest: ready" || fail "the guest of $name does not come up"
}
declare -A keys screen process
# until_line NAME TEXT: reads the console of NAME, without a process of its own, up to a line with TEXT; false
# when half a minute brings nothing.
until_line() {
    local line
    while read -r -t 30 -u "${screen[$1]}" line; do
        echo "${line%$'\r'}" >>"$1.console"
        case $line in *"$2"*) return 0 ;; esac
    done
    return 1
}
# cost NAME MEASUREMENT: instructions per request in the median turn.
cost() {
    awk -v measurement="$2" '
        $1 == "turn:" { for (i = 2; i < NF; i++) if ($i == measurement) print $(i + 6) / $(i + 2) }' "$1.console" | median
}
# counted NAME: exits of the guest and context switches of its process so far.
counted() {
    local pid=${process[$1]} exits switches
    [ "$1" = ours ] && pid=$(pgrep -x macrohard-vm)
    exits=$(cat /sys/kernel/debug/kvm/"$pid"-*/exits)
    switches=$(awk '/ctxt_switches/ { all += $2 } END { print all }' /proc/"$pid"/task/*/status)
    echo "$exits $switches"
}
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
head -c $((64 << 20)) /dev/urandom >disk.raw
qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
guests="ours qemu iothread"
guest ours macrohard-hypervisor run --engine kvm --timeout 1400 --memory 256 --cpus 2 --net none --kernel "$kernel" --initrd initrd \
    --append "$quiet maxcpus=1" --disk "$work/disk.raw,format=raw" --disk "$work/disk.qcow2,format=qcow2"
for guest in qemu iothread; do
    case $guest in
    qemu) drive='' device='' thread='' ;;
    iothread) drive=,aio=io_uring device=,iothread=disks thread='-object iothread,id=disks' ;;
    esac
    # All read only, but a writable disk is what everybody has: each has files of its own.
    cp disk.raw $guest.raw && cp disk.qcow2 $guest.qcow2
    # shellcheck disable=SC2086 # $thread is two words or none
    guest $guest qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 256 -smp 2 -nodefaults -no-user-config -display none -no-reboot \
        -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel" -initrd initrd -append "$quiet maxcpus=1" $thread \
        -drive "if=none,id=raw,file=$guest.raw,format=raw$drive" -device "virtio-blk-pci,drive=raw$device" \
        -drive "if=none,id=qcow2,file=$guest.qcow2,format=qcow2$drive" -device "virtio-blk-pci,drive=qcow2$device"
done
for guest in $guests; do
    read -r "exits_$guest" "switches_$guest" < <(counted $guest)
done
stalled=' '
for ((turn = 0; turn < turns; turn++)); do
    for guest in $guests; do
        [[ $stalled = *" $guest "* ]] && continue
        echo turn >&"${keys[$guest]}"
        until_line $guest turn: && continue
        step "$guest stalls in turn $turn"
        stalled+="$guest "
    done
done
for guest in $guests; do
    done=$(grep -c ^turn: $guest.console)
    [ "$done" -gt 0 ] || fail "the guest of $guest stalls in its first turn"
    read -r exits switches < <(counted $guest)
    before=exits_$guest
    figure "exits_per_turn_$guest" $(((exits - ${!before}) / done))
    before=switches_$guest
    figure "context_switches_per_turn_$guest" $(((switches - ${!before}) / done))
done
if [[ $stalled != *" ours "* ]]; then
    echo end >&"${keys[ours]}"
    wait "${process[ours]}"
    code=$?
    expect_code 0 "our guest"
fi
kill "${process[@]}" 2>/dev/null
for format in raw qcow2; do
    for other in qemu iothread; do
        suffix=${other/#qemu/}
        suffix=${suffix:+_beside_$suffix}
        echo "compare random_4k_$format$suffix instructions lower $(cost ours ${format}_random) $(cost $other ${format}_random)"
        echo "compare sequential_1m_$format$suffix instructions lower $(cost ours ${format}_sequential) $(cost $other ${format}_sequential)"
    done
done

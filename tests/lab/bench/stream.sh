#!/bin/bash
# Throughput between guest and host over vsock and over a network card on a tap, both ways, beside QEMU with
# vhost-vsock and with its own and the kernel's network back end.
# lab: memory=3072 cpus=1 limit=3000 icount
#
# The lab machine counts instructions: its second is 10^9 of them, of guest, kernel and process together, and idle
# time. So figures repeat, whatever else runs beside the lab machine, and the guests live one after the other. The
# median turn counts. Counted instructions now and then make a guest stall (docs/src/lab.md): then the turns it had
# so far count, and it is started again for the others.
#
# A guest has a second processor that it does not use. Linux then halts where it waits for a lock that it holds itself;
# with one processor it would spin there, and a counted second of that takes many minutes.
. /lab/lib.sh

turns=5
mebibytes=16
# Counted seconds after which a guest is taken to stall. A turn takes less than one.
patience=10
options="$quiet maxcpus=1"
modprobe -a vhost_vsock vhost_net tun || fail "the lab kernel lacks vhost"
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
declare -A number=([ours]=1 [plain]=2 [vhost]=3) keys screen process to_guest from_guest exits switches
# until_line NAME TEXT SECONDS: reads the console of NAME, without a process of its own, up to a line with TEXT; false
# when nothing comes in that time.
until_line() {
    local line
    while read -r -t "$3" -u "${screen[$1]}" line; do
        echo "${line%$'\r'}" >>"$1.console"
        case $line in *"$2"*) return 0 ;; esac
    done
    return 1
}
# prepare NAME: a tap and an initial RAM disk for the guest NAME.
prepare() {
    local number=${number[$1]}
    ip tuntap add dev "tap$number" mode tap && ip address add "10.8.$number.1/24" dev "tap$number" && ip link set "tap$number" up
    guest_initrd "$1.initrd" <<END
ip address add 10.8.$number.2/24 dev eth0 && ip link set eth0 up
echo "guest: ready"
while read -r order; do
    lab-tool sink vsock:7001 >/tmp/vsock-in || exit 2
    lab-tool source vsock:2:7000 $mebibytes || exit 3
    lab-tool sink tcp:7003 >/tmp/net-in || exit 4
    lab-tool source tcp:10.8.$number.1:7002 $mebibytes || exit 5
    # One line at the end: the console would disturb what is measured.
    echo "turn: vsock-in \$(cat /tmp/vsock-in) net-in \$(cat /tmp/net-in)"
done
END
}
# up NAME: starts the guest NAME, whose console is NAME.in and NAME.out; false when it does not come up.
up() {
    local name=$1 number=${number[$1]} vhost=off command
    rm -f "$name.in" "$name.out"
    mkfifo "$name.in" "$name.out"
    exec {keys[$name]}<>"$name.in" {screen[$name]}<>"$name.out"
    [ "$name" = vhost ] && vhost=on
    if [ "$name" = ours ]; then
        command=(macrohard-hypervisor run --engine kvm --timeout 1400 --memory 256 --cpus 2 --net tap=tap1 --kernel "$kernel"
            --initrd "$work/ours.initrd" --append "$options")
    else
        command=(qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 256 -smp 2 -nodefaults -no-user-config -display none
            -no-reboot -serial stdio -device "isa-debug-exit,iobase=0xf4,iosize=4" -kernel "$kernel" -initrd "$name.initrd"
            -append "$options" -netdev "tap,id=net,ifname=tap$number,script=no,downscript=no,vhost=$vhost"
            -device "virtio-net-pci,netdev=net" -device "vhost-vsock-pci,guest-cid=4$number")
    fi
    "${command[@]}" <"$name.in" >"$name.out" 2>&1 &
    process[$name]=$!
    disown
    until_line "$name" "guest: ready" 30 || return 1
    to_guest[$name]=vsock:4$number:7001
    from_guest[$name]=vsock:7000
    if [ "$name" = ours ]; then
        # The newest: one that was ended leaves its own behind.
        socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
        to_guest[ours]=unix:$socket:7001
        from_guest[ours]=unix:${socket}_7000
    fi
}
# down NAME: ends the guest NAME.
down() {
    kill -KILL "${process[$1]}" 2>/dev/null
    [ "$1" = ours ] && pkill -KILL -x macrohard-vm
    # Its tap must be free for the next.
    within 10 sh -c "! kill -0 ${process[$1]}"
    exec {keys[$1]}>&- {screen[$1]}>&-
}
# send ADDRESS: the host sends to the guest as soon as it listens; false when it does not take it.
send() {
    local try
    for ((try = 0; try < 10; try++)); do
        timeout $patience lab-tool source "$1" $mebibytes 2>/dev/null && return 0
        [ $? = 124 ] && return 1
        sleep 0.2
    done
    return 1
}
# turn NAME: four transfers; false when the guest stalls.
turn() {
    local name=$1 vsock net exits_before switches_before
    count $name
    exits_before=$now_exits switches_before=$now_switches
    rm -f "${from_guest[$name]#unix:}"
    timeout $((3 * patience)) lab-tool sink "${from_guest[$name]}" >vsock-out &
    vsock=$!
    timeout $((3 * patience)) lab-tool sink tcp:7002 >net-out &
    net=$!
    echo turn >&"${keys[$name]}"
    if send "${to_guest[$name]}" && wait $vsock && send "tcp:10.8.${number[$name]}.2:7003" && wait $net && until_line "$name" turn: $patience; then
        echo "turn: vsock-out $(cat vsock-out) net-out $(cat net-out)" >>"$name.console"
        count $name
        exits[$name]=$((${exits[$name]:-0} + now_exits - exits_before))
        switches[$name]=$((${switches[$name]:-0} + now_switches - switches_before))
        return 0
    fi
    kill $vsock $net 2>/dev/null
    wait $vsock $net 2>/dev/null
    return 1
}
# count NAME: exits of the guest and context switches of its process so far.
count() {
    local pid=${process[$1]}
    [ "$1" = ours ] && pid=$(pgrep -x macrohard-vm)
    now_exits=$(cat /sys/kernel/debug/kvm/"$pid"-*/exits)
    now_switches=$(awk '/ctxt_switches/ { all += $2 } END { print all }' /proc/"$pid"/task/*/status)
}
# measured NAME: how many turns it had.
measured() { grep -c '^turn: vsock-out' "$1.console" 2>/dev/null; }
# rate NAME TRANSFER: the median turn in MiB per 10^9 instructions.
rate() {
    awk -v transfer="$2" '$1 == "turn:" { for (i = 2; i < NF; i++) if ($i == transfer) print $(i + 2) / 1048576 * 1e9 / $(i + 4) }' "$1.console" |
        median
}
for name in ours plain vhost; do
    prepare $name
    for ((attempt = 0; attempt < 6 && $(measured $name) + 0 < turns; attempt++)); do
        if up $name; then
            while [ "$(measured $name)" -lt $turns ] && turn $name; do
                step "$name: turn $(measured $name)"
            done
        fi
        [ "$(measured $name)" -lt $turns ] && step "$name stalls"
        down $name
    done
    done=$(measured $name)
    figure "turns_$name" "$done"
    if [ "$done" = 0 ]; then
        [ $name = ours ] && fail "our guest stalls again and again"
        step "no figures of $name"
        continue
    fi
    figure "exits_per_turn_$name" $((exits[$name] / done))
    figure "context_switches_per_turn_$name" $((switches[$name] / done))
done
# compared NAME TRANSFER OTHER: ours beside another guest's, if that was measured.
compared() {
    local other
    other=$(rate "$3" "$2")
    [ -z "$other" ] || echo "compare $1 MiB/s higher $(rate ours "$2") $other"
}
for way in out in; do
    compared vsock_$way vsock-$way vhost
    compared tap_net_$way net-$way plain
    compared tap_net_${way}_beside_vhost net-$way vhost
done

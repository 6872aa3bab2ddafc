#!/bin/bash
# The core beneath Linux beside KVM in it, on the same machine with the same VM process: exits of the tiny guest
# `exits`, what root's own work costs, and a Debian guest's way to its first program, its disk and its vsock.
# lab: memory=1024 cpus=1 limit=2400 icount
. /lab/lib.sh

# `cargo xtask bench type15` runs this twice, on engine core and on engine kvm; there QEMU takes its turn, too. The time
# stamp counter counts instructions, and so does every clock.
lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"
nanoseconds() { sed -n 's/^nanoseconds \([0-9]*\)\r*$/\1/p' | tail -n 1; }

step "root's own work"
for turn in 1 2 3 4 5; do lab-tool clock -- dd if=/dev/zero of=/dev/null bs=1 count=100000 status=none | nanoseconds; done | median >syscalls
figure root_syscalls "$(cat syscalls)"
# One turn in five is 2% off, with the core and without.
for turn in {1..15}; do lab-tool clock -- bash -c 'for i in {1..200}; do (:); done' | nanoseconds; done | median >forks
figure root_forks "$(cat forks)"
for turn in 1 2 3 4 5; do lab-tool clock -- bash -c 'for i in {1..50}; do /bin/true; done' | nanoseconds; done | median >programs
figure root_programs "$(cat programs)"

# figures WHO CONSOLE: the guest's figures as WHO's.
figures() {
    grep -q '^figure ipi_round_trip ' "$2" || fail "the guest under $1 did not measure to its end"
    tr -d '\r' <"$2" | awk -v who="$1" '$1 == "figure" { print "figure " who "_" $2, $3 }'
}
step "exits"
# The median of three guests' medians: a timer's way depends on where the kernel's ticks fall.
for turn in 1 2 3; do
    timeout=300 run_guest exits --memory 64 --cpus 2 --net none --kernel tiny/exits.image
    expect_code 0 "exits"
    figures ours "$work/exits.console" >>exits.figures
    [ "$engine" = kvm ] || continue
    # The guest ends QEMU with its status times two plus one.
    timeout 300 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -m 64 -smp 2 -nodefaults -no-user-config -display none -no-reboot \
        -kernel tiny/exits.image -chardev "file,id=text,path=$work/qemu.console" -device isa-debugcon,iobase=0xe9,chardev=text \
        -device isa-debug-exit,iobase=0xec,iosize=1 </dev/null
    [ $? = 1 ] || fail "QEMU did not run the guest to its end"
    figures qemu "$work/qemu.console" >>exits.figures
done
awk '{ print $2 }' exits.figures | sort -u | while read -r name; do
    figure "$name" "$(awk -v name="$name" '$2 == name { print $3 }' exits.figures | median)"
done

step "a Debian guest"
guest_initrd initrd <<'END'
echo "up $(cut -d ' ' -f 1 /proc/uptime)"
# What the host does about that line is done by then.
sleep 2
for turn in 1 2 3; do random="$random random $(lab-tool read-disk /dev/vda --block 4096 --count 300 --random)" || exit 2; done
for turn in 1 2 3; do sequential="$sequential sequential $(lab-tool read-disk /dev/vda --block 1048576 --count 8)" || exit 3; done
# The host's end is there soon.
until vsock=$(lab-tool fetch vsock:2:7000 --count 3 2>/dev/null); do sleep 0.1; done
echo "results$random$sequential vsock $vsock"
exit 42
END
head -c $((64 << 20)) /dev/urandom >disk.raw
# A guest now and then stalls where instructions are counted (docs/src/lab.md): then it is started again. The second of its
# CPUs is not used: with it a guest that stalls halts and its time is over soon, without it spins for many minutes.
: >results
for turn in $(seq 6); do
    start=$(date +%s%N)
    timeout 40 macrohard-hypervisor run --engine "$engine" --timeout 30 --memory 256 --cpus 2 --net none --kernel "$kernel" --initrd initrd \
        --append "$quiet maxcpus=1" --disk "$work/disk.raw,format=raw" </dev/null 2>&1 |
        while read -r line; do
            case $line in
            up*)
                echo "$(($(date +%s%N) - start))" >boot
                socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
                lab-tool serve "unix:${socket}_7000" 8 &
                ;;
            results*) echo "$line boot $(cat boot)" ;;
            *) echo "$line" >>guest.console ;;
            esac
        done >line
    pkill -f 'lab-tool serve'
    tr -d '\r' <line >>results
    [ "$(wc -l <results)" -ge 3 ] && break
done
[ -s results ] || { tail -n 20 guest.console; fail "no guest came to its end"; }
# cost WORD PLACE: the median of the number so many words behind a word, divided by the one before it.
value() { awk -v word="$1" -v place="$2" '{ for (i = 1; i < NF; i++) if ($i == word) print $(i + place) }' results | median; }
figure boot "$(value boot 1)"
figure disk_random "$(value random 6)"
figure disk_sequential "$(value sequential 6)"
figure vsock "$(value vsock 2)"

step "idle"
# exits: of root's own virtual CPUs, all together.
exits() { macrohard-hypervisor core status | awk '$1 ~ /^[0-9]+$/ { all += $NF } END { print all }'; }
if [ "$engine" = core ]; then
    before=$(exits)
    after=$(exits)
    asking=$((after - before))
    before=$after
    sleep 10
    after=$(exits)
    figure root_idle_exits "$(awk -v all=$((after - before - asking)) 'BEGIN { print all / 10 }')"
fi

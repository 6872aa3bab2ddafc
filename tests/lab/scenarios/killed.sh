#!/bin/bash
# VM processes are killed at any moment of their guests' boot, many times and several at once: nothing of them
# stays, the others go on, and the next one starts. With the core beneath, its pool has all its memory again.
# lab: memory=1536 cpus=2 limit=1500 core
. /lab/lib.sh

# MiB of the core's pool that no VM has; nothing on another engine.
free() { macrohard-hypervisor doctor | sed -n 's/.*pool [0-9]* MiB, \([0-9]*\) MiB free.*/\1/p'; }
before=$(free)
[ "$engine" != core ] || [ -n "$before" ] || fail "the doctor does not tell of the core: $(macrohard-hypervisor doctor)"
step "free before: ${before:-not a pool} MiB"

# The VM's own process, of the program that waits for it.
vm_of() { pgrep -P "$1" || echo "$1"; }

guest_initrd initrd <<'END'
echo "guest: up"
i=0; while :; do i=$((i + 1)); echo "tick $i"; sleep 0.2; done
END
ticks() { grep -c '^tick' witness.console; }
macrohard-hypervisor run --engine "$engine" --memory 192 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" </dev/null >witness.console 2>&1 &
witness=$!
wait_for 300 "the witness" grep -q '^tick 3' witness.console

# The core has to clean up itself what the kernel does for KVM. Two hundred deaths are for `cargo xtask lab` and
# `cargo xtask test --all`.
rounds=15
[ "$engine" != core ] || [ -e /lab/short ] || rounds=50
step "$((rounds * 4)) deaths"
for round in $(seq $rounds); do
    victims=
    for number in 1 2 3 4; do
        macrohard-hypervisor run --engine "$engine" --memory 128 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
            --append "$quiet" </dev/null >"victim$number.console" 2>&1 &
        victims="$victims $!"
    done
    sleep "$(awk -v r="$round" 'BEGIN { srand(r); printf "%.2f", rand() * 3 }')"
    # Half of them the VM's process itself, half the program that waits for it.
    read -r first second third fourth <<<"$victims"
    kill -KILL "$(vm_of "$first")" "$second" "$(vm_of "$third")" "$fourth"
    wait "$first" "$second" "$third" "$fourth" 2>/dev/null
    kill -0 "$witness" 2>/dev/null || fail "the witness died in round $round: $(tail -n 5 witness.console)"
done
seen=$(ticks)
wait_for 60 "the witness to go on" sh -c "[ \$(grep -c '^tick' witness.console) -gt $((seen + 3)) ]"

# Killed programs' VMs end with them.
wait_for 30 "the end of the victims" sh -c '[ "$(pgrep -c macrohard-vm)" -le 1 ]'
step "more processors than the machine has, stopped, made to wait, and moved"
macrohard-hypervisor run --engine "$engine" --memory 128 --cpus 4 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" </dev/null >stopped.console 2>&1 &
stopped=$!
within 400 grep -q '^tick 2' stopped.console || fail "the guest with more processors than the machine: $(tail -n 20 stopped.console)"
vm=$(vm_of "$stopped")
kill -STOP "$vm"
sleep 2
seen=$(grep -c '^tick' stopped.console)
sleep 2
[ "$(grep -c '^tick' stopped.console)" = "$seen" ] || fail "a stopped process's guest goes on"
kill -CONT "$vm"
wait_for 60 "the guest after its process was stopped" sh -c "[ \$(grep -c '^tick' stopped.console) -gt $((seen + 2)) ]"
# A fifth of one CPU, and that on the second.
limited=/sys/fs/cgroup/limited
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control && mkdir "$limited" && echo "20000 100000" >"$limited/cpu.max" \
    && echo "$vm" >"$limited/cgroup.procs" || fail "a cgroup with a limit"
for thread in /proc/"$vm"/task/*; do taskset -p 2 "${thread##*/}" >/dev/null; done
seen=$(grep -c '^tick' stopped.console)
wait_for 60 "the guest on one CPU" sh -c "[ \$(grep -c '^tick' stopped.console) -gt $((seen + 2)) ]"
kill -KILL "$vm" "$(vm_of "$witness")"
wait "$stopped" "$witness" 2>/dev/null

step "free after: $(free) MiB"
[ "$(free)" = "$before" ] || fail "the pool lacks memory of processes that died: $(free) MiB of $before are free"

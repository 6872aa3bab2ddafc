#!/bin/bash
# Root's own programs call the core with random numbers, with the right key and with a wrong one: each call is
# answered, a guest beside them goes on, and the pool has all its memory again.
# lab: memory=1024 cpus=2 limit=900 only-core core
. /lab/lib.sh

free() { macrohard-hypervisor doctor | sed -n 's/.*pool [0-9]* MiB, \([0-9]*\) MiB free.*/\1/p'; }
before=$(free)
guest_initrd initrd <<'END'
i=0; while :; do i=$((i + 1)); echo "tick $i"; sleep 0.2; done
END
macrohard-hypervisor run --engine core --memory 128 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" </dev/null >witness.console 2>&1 &
witness=$!
wait_for 120 "the witness" grep -q '^tick 3' witness.console
for seed in 1 2 3 4; do
    step "seed $seed"
    timeout 200 lab-tool core-calls --seed "$seed" --calls 20000 || fail "seed $seed"
done
step "two at once"
lab-tool core-calls --seed 5 --calls 10000 & first=$!
lab-tool core-calls --seed 6 --calls 10000 & second=$!
wait "$first" || fail "the first of two"
wait "$second" || fail "the second of two"
step "one that is killed on its way"
lab-tool core-calls --seed 7 --calls 100000000 & first=$!
sleep 3
kill -KILL "$first"
wait "$first" 2>/dev/null
seen=$(grep -c '^tick' witness.console)
wait_for 60 "the witness to go on" sh -c "[ \$(grep -c '^tick' witness.console) -gt $((seen + 3)) ]"
kill "$witness"
wait "$witness" 2>/dev/null
# The next run ends what the killed one had.
lab-tool core-calls --calls 100 || fail "the run after the killed one"
[ "$(free)" = "$before" ] || fail "$(free) MiB of $before are free"

#!/bin/bash
# Every tiny guest prints what it promises and ends with its status: alone, four at once as separate VMs,
# and as several virtual CPUs of one VM.
# lab: memory=1536 cpus=2 limit=600
. /lab/lib.sh

lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"
timeout=60
# check NAME: the console of the guest that ran as NAME, and its status.
check() {
    tr -d '\r' <"$work/$1.console" | cmp -s - "tiny/$1.output" || {
        diff <(tr -d '\r' <"$work/$1.console") "tiny/$1.output"
        fail "$1 printed something else"
    }
}
for status in tiny/*.status; do
    name=$(basename "$status" .status)
    step "$name"
    start=$(now)
    run_guest "$name" --memory 16 --net none --kernel "$work/tiny/$name.bin"
    expect_code "$(cat "$status")" "$name"
    check "$name"
    figure "seconds_$name" "$(since "$start")"
done

step "minimal halts and is ended by its time"
timeout=3 run_guest minimal --memory 16 --net none --kernel "$work/tiny/minimal.bin"
expect_code 124 "minimal"

step "four at once"
start=$(now)
for name in counter multiplication matrix pmode_test; do
    macrohard-hypervisor run --engine "$engine" --timeout 60 --memory 16 --net none --kernel "$work/tiny/$name.bin" \
        </dev/null >"$work/$name.console" 2>&1 &
    eval "process_$name=\$!"
done
for name in counter multiplication matrix pmode_test; do
    eval "wait \$process_$name"
    code=$?
    expect_code "$(cat "tiny/$name.status")" "$name beside three others"
    check "$name"
done
figure seconds_parallel "$(since "$start")"

for processors in 2 4; do
    step "one VM with $processors virtual CPUs"
    run_guest "smp-$processors" --memory 16 --cpus "$processors" --net none --kernel "$work/tiny/smp.image"
    expect_code 0 "smp with $processors"
    tr -d '\r' <"$work/smp-$processors.console" | LC_ALL=C sort | cmp -s - "tiny/smp-$processors.output" || fail "smp with $processors printed something else: $(cat "$work/smp-$processors.console")"
done

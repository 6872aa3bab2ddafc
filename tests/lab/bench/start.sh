#!/bin/bash
# Instructions from the start of the VM process to the guest's first one, 1 vCPU and 128 MiB, beside QEMU's
# machine microvm.
# lab: memory=1024 cpus=1 limit=900 icount
. /lab/lib.sh

# Under -icount the time stamp counter counts instructions, so the kernel's trace does too.
mount -t tracefs tracefs /sys/kernel/tracing || fail "the lab kernel has no tracefs"
tracing=/sys/kernel/tracing
echo x86-tsc >$tracing/trace_clock
echo 1 >$tracing/events/sched/sched_process_exec/enable
echo 1 >$tracing/events/kvm/kvm_entry/enable

# measure PROGRAM COMMAND...: instructions from the exec of PROGRAM to the first entry of a guest; the
# first run only warms the page cache, and of the others the smallest counts.
measure() {
    local program=$1 best='' count
    shift
    for run in warm 1 2 3; do
        echo >$tracing/trace
        timeout 120 "$@" </dev/null >"$work/measured.console" 2>&1
        count=$(awk -v program="$program" '
            { for (i = 1; i <= NF; i++) if ($i == "sched_process_exec:" || $i == "kvm_entry:") { what = $i; time = $(i - 1); sub(":", "", time) } }
            what == "sched_process_exec:" && index($0, program) { start = time }
            what == "kvm_entry:" && start && !done { printf "%d", time - start; done = 1 }
            { what = "" }' $tracing/trace)
        [ -n "$count" ] || { head -n 30 $tracing/trace; cat "$work/measured.console"; fail "no guest of $program was entered"; }
        [ "$run" = warm ] && continue
        if [ -z "$best" ] || [ "$count" -lt "$best" ]; then best=$count; fi
    done
    echo "$best"
}

lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"
# A firmware of one instruction at the reset vector: out %al, $0xf4 ends QEMU.
truncate -s 65536 firmware.bin
printf '\346\364' | dd of=firmware.bin bs=1 seek=65520 conv=notrunc 2>/dev/null

ours=$(measure macrohard-vm macrohard-hypervisor run --engine kvm --timeout 60 --memory 128 --cpus 1 --net none --kernel "$work/tiny/hello.bin") || { echo "$ours"; exit 1; }
qemu=$(measure qemu-system qemu-system-x86_64 -accel kvm -machine microvm -cpu host -m 128 -smp 1 -nodefaults -no-user-config -display none \
    -bios "$work/firmware.bin" -device isa-debug-exit,iobase=0xf4,iosize=4) || { echo "$qemu"; exit 1; }
echo "compare start instructions lower $ours $qemu"

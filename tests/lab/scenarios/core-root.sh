#!/bin/bash
# Root beneath which the core lies cannot reach the core's memory, takes processors off line and back while guests run on
# them, and leaves an idle machine to itself; it starts no other kernel and does not suspend to disk; too little pool is
# an error that says so, and two daemons share what there is.
# lab: memory=768 cpus=2 limit=600 only-core core
. /lab/lib.sh

step "what the core says of itself"
macrohard-hypervisor core status || fail "core status"
macrohard-hypervisor core log | grep -q 'starting root' || fail "core log lacks its own start"
macrohard-hypervisor doctor | grep -q -i 'core' || fail "doctor does not know the core"
grep -q hypervisor /proc/cpuinfo && fail "root sees a hypervisor"
grep -q -w svm /proc/cpuinfo && fail "root sees SVM"

step "what would take the processors away from the core is refused"
grep -q '^sysctl.kernel.kexec_load_disabled=1 ' /proc/cmdline || fail "the core's words are missing: $(cat /proc/cmdline)"
# kexec_load of no segments would be done, and is refused: EPERM.
perl -e 'exit(syscall(246, 0, 0, 0, 0) < 0 && $! == 1 ? 0 : 1)' || fail "root can load a kernel for kexec"
[ "$(cat /proc/sys/kernel/kexec_load_disabled)" = 1 ] || fail "kexec is allowed"
(echo disk >/sys/power/state) 2>/dev/null && fail "root can suspend to disk"
grep -q deep /sys/power/mem_sleep || fail "root cannot suspend to RAM: $(cat /sys/power/mem_sleep)"

step "the core's memory is out of root's reach"
place=$(macrohard-hypervisor core log | sed -n 's/^core: core [0-9]* MiB at \(0x[0-9a-f]*\)-.*/\1/p' | head -n 1)
[ -n "$place" ] || fail "the core does not say where it is"
# A reader finds an empty page: who looks through all of memory, for a crash dump, is not stopped.
dd if=/dev/mem of=stolen bs=4096 count=16 skip=$((place / 4096)) 2>/dev/null || fail "/dev/mem stops at the core's memory"
cmp -s stolen <(head -c 65536 /dev/zero) || fail "root read the core's memory"
[ "$(busybox devmem "$place" 32)" = 0x00000000 ] || fail "root mapped the core's memory"
(busybox devmem "$place" 32 0x12345678) >/dev/null 2>&1 && fail "root wrote the core's memory"
macrohard-hypervisor core status | grep -q 'as it was' || fail "the core's memory has changed"
# Its image is where the boot loader put it: the last reserved range below the kernel.
macrohard-hypervisor core log | grep -q 'root was kept from' || fail "the core did not notice"

step "an idle root is left alone"
exits() { macrohard-hypervisor core status | awk '$1 ~ /^[0-9]+$/ { all += $NF } END { print all }'; }
before=$(exits)
after=$(exits)
asking=$((after - before))
before=$after
sleep 10
after=$(exits)
figure idle_exits_per_second "$(awk -v all=$((after - before - asking)) 'BEGIN { print all / 10 }')"
[ $((after - before - asking)) -lt 200 ] || fail "an idle root exits $((after - before - asking)) times in ten seconds"

step "processors go and come while a guest runs"
guest_initrd initrd <<'END'
for turn in $(seq 40); do
    taskset 1 true && taskset 2 true || exit 2
    sleep 0.2
done
exit 42
END
macrohard-hypervisor run --engine core --timeout 300 --memory 192 --cpus 2 --net none --kernel "$kernel" --initrd initrd --append "$quiet" \
    </dev/null >guest.console 2>&1 &
guest=$!
wait_for 100 "the guest" grep -q 'guest: up' guest.console
turns=0
while kill -0 $guest 2>/dev/null && [ $turns -lt 12 ]; do
    echo 0 >/sys/devices/system/cpu/cpu1/online || fail "a processor stays on line"
    sleep 0.3
    echo 1 >/sys/devices/system/cpu/cpu1/online || fail "a processor stays off line"
    sleep 0.3
    turns=$((turns + 1))
done
wait $guest
code=$?
expect_code 42 "a guest whose processor went off line $turns times"
figure turns "$turns"
[ "$(nproc)" = 2 ] || fail "a processor is missing"

step "more than the pool has"
macrohard-hypervisor run --engine core --memory 767 --net none --kernel "$kernel" --initrd "$base_initrd" </dev/null >large.console 2>&1 &&
    fail "a VM larger than the pool started"
grep -q -i 'pool' large.console || fail "the error does not name the pool: $(cat large.console)"
cat large.console

step "two daemons"
lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"
for user in one two; do
    mkdir -p -m 0700 "/tmp/$user/run"
    XDG_RUNTIME_DIR=/tmp/$user/run XDG_STATE_HOME=/tmp/$user/state XDG_CONFIG_HOME=/tmp/$user/config XDG_DATA_HOME=/tmp/$user/data \
        macrohard-hypervisor run --engine core --timeout 100 --memory 64 --net none --kernel tiny/matrix.bin </dev/null >"$user.console" 2>&1 &
    eval "$user=\$!"
done
for user in one two; do
    wait "${!user}"
    code=$?
    expect_code "$(cat tiny/matrix.status)" "the guest of daemon $user"
done
macrohard-hypervisor core status
dmesg | grep -E 'Oops|BUG|WARNING|Call Trace' && fail "root's kernel complained"
exit 0

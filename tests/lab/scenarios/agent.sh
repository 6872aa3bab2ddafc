#!/bin/bash
# The guest's agent reaches the daemon over vsock with the token the firmware interface shows to root, runs
# programs for the host with their streams, codes, signals and terminals, is missed when it is killed, comes
# back, and sets the guest's clock after a pause.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

guest_initrd initrd <<'END'
token=/sys/firmware/qemu_fw_cfg/by_name/opt/org.macrohard/agent-token/raw
[ "$(stat -c %a $token)" = 400 ] || exit 2
[ "$(wc -c <$token)" = 64 ] || exit 3
mkdir -p /run /etc /root /dev/pts
echo root:x:0:0::/root:/bin/sh >/etc/passwd
mount -t devpts devpts /dev/pts
while [ ! -e /tmp/end ]; do
    macrohard-guest-agent system
    sleep 0.1
done
exit 0
END
macrohard-hypervisor create --name agent --engine "$engine" --memory 256 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" || fail "create"
macrohard-hypervisor start agent || fail "start"
in_guest() { macrohard-hypervisor exec --wait 300 agent -- "$@"; }

step "a program with its outputs and its code"
in_guest sh -c 'uname -n; echo out; echo err >&2; exit 7' >out 2>err
[ $? = 7 ] || fail "the code is not 7"
[ "$(tail -n 1 out)" = out ] && [ "$(cat err)" = err ] || fail "outputs: $(cat out err)"
macrohard-hypervisor status agent | tee status
grep -q '^agents *system (' status || fail "status names no agent"
# Its queues' notifications do not go through the machine's devices.
[ "$engine" != core ] || macrohard-hypervisor stats agent | grep '^core.doorbells' || fail "no doorbell has rung"

step "bytes there and back"
head -c 3000000 /dev/urandom >sent
in_guest cat <sent >back || fail "cat"
cmp sent back || fail "bytes came back changed"

step "a shell on a terminal"
terminal='stty cols 91 rows 17; macrohard-hypervisor shell agent; echo "the shell ended with $?"'
{ sleep 2; printf 'stty size; tty\n'; sleep 10; printf 'exit 5\n'; sleep 5; } | socat - "SYSTEM:$terminal,pty,setsid,ctty,stderr" >shell.log
grep -q '17 91' shell.log && grep -q /dev/pts/ shell.log || fail "the terminal: $(cat shell.log)"
grep -q 'the shell ended with 5' shell.log || fail "the shell's code: $(cat shell.log)"

step "a call that ends takes its program along"
macrohard-hypervisor exec agent -- sleep 4321 &
client=$!
sleeps() { in_guest pidof sleep; }
wait_for 20 "the program" sleeps
kill -KILL $client
wait_for 20 "the program's end" sh -c '! macrohard-hypervisor exec --wait 300 agent -- pidof sleep'

step "the agent is killed and comes back"
before=$(in_guest pidof macrohard-guest-agent) || fail "no agent runs"
in_guest killall -KILL macrohard-guest-agent 2>/dev/null
after=$(in_guest pidof macrohard-guest-agent) || fail "no agent after the first was killed"
[ "$before" != "$after" ] || fail "the agent $before was not killed"

step "the daemon is killed"
pkill -KILL macrohardd
in_guest true || fail "the next daemon does not hear of the agent"

step "the clock after a pause"
macrohard-hypervisor pause agent || fail "pause"
sleep 20
macrohard-hypervisor resume agent || fail "resume"
on_time() {
    local there
    there=$(in_guest date +%s) || return 1
    [ $(($(date +%s) - there)) -le 5 ]
}
wait_for 60 "the guest's clock" on_time

step "the clock when the host's jumps, as behind a sleep of the host"
close() {
    local there
    there=$(in_guest date +%s) || return 1
    there=$(($(date +%s) - there))
    [ "${there#-}" -le 5 ]
}
for by in "+1 hour" "-1 hour"; do
    date -s "$by" >/dev/null || fail "the host's clock cannot be set"
    wait_for 60 "the guest's clock, the host's having jumped by $by" close
done

step "how long a program takes"
start=$(now)
for _ in 1 2 3 4 5 6 7 8 9 10; do in_guest true || fail "true"; done
figure ten_programs_seconds "$(since "$start")"
in_guest touch /tmp/end
in_guest killall macrohard-guest-agent 2>/dev/null
wait_for 60 "the guest's end" sh -c '! macrohard-hypervisor list | grep -q agent'
macrohard-hypervisor logs agent --console >agent.console
console_has agent "guest: ends with 0"

#!/bin/bash
# An empty call to the guest's agent beside a byte that a bare vsock program in the guest sends back, and a program
# run for the host beside the same one started in the guest. The ratio of the first is the price of gRPC and of the daemon.
# lab: memory=2048 cpus=1 limit=1800 icount
#
# The lab machine counts instructions, so a nanosecond is one of guest, kernel and processes together. All is measured in
# one run of one guest. Its second processor stays unused: see stream.sh.
. /lab/lib.sh

turns=3
guest_initrd initrd <<'END'
mkdir -p /run /etc /root
echo root:x:0:0::/root:/bin/sh >/etc/passwd
while :; do lab-tool vsock-echo 7100 >/dev/null; done &
while :; do
    macrohard-guest-agent system
    sleep 0.1
done
END
macrohard-hypervisor create --name agent --engine kvm --memory 256 --cpus 2 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet maxcpus=1" || fail "create"
# A guest now and then stalls where instructions are counted (docs/src/lab.md): then it is started again.
: >turns
begin() {
    macrohard-hypervisor start agent || fail "start"
    timeout 60 macrohard-hypervisor exec --wait 50 agent -- true && return 0
    macrohard-hypervisor stop agent --force
    return 1
}
# number: the figure of a `nanoseconds NS` line.
number() { sed -n 's/^nanoseconds \([0-9]*\)\r*$/\1/p' | tail -n 1; }
# turn: one line of figures; false when the guest stalls.
turn() {
    local socket call echo inside outside
    socket=$(find "$XDG_RUNTIME_DIR" -name vsock.sock | head -n 1)
    echo=$(timeout 60 lab-tool round-trips "unix:$socket:7100" --count 101 | number)
    call=$(timeout 60 macrohard-hypervisor ping agent --count 101 --json | sed -n 's/.*"median": *\([0-9]*\).*/\1/p')
    inside=$(timeout 60 macrohard-hypervisor exec agent -- lab-tool clock --count 11 -- true | number)
    outside=$(timeout 120 lab-tool clock --count 11 -- macrohard-hypervisor exec agent -- true | number)
    [ -n "$echo" ] && [ -n "$call" ] && [ -n "$inside" ] && [ -n "$outside" ] || return 1
    echo "$echo $((call * 1000)) $inside $outside" >>turns
    step "turn: $(tail -n 1 turns)"
}
for ((attempt = 0; attempt < 6; attempt++)); do
    begin || continue
    while [ "$(wc -l <turns)" -lt $turns ] && turn; do :; done
    macrohard-hypervisor stop agent --force
    [ "$(wc -l <turns)" -ge $turns ] && break
    step "the guest stalls"
done
[ -s turns ] || fail "the guest stalls again and again"
column() { awk -v column="$1" '{ print $column }' turns | median; }
echo "compare empty_call_beside_bare_vsock instructions lower $(column 2) $(column 1)"
figure exec_true_instructions "$(column 4)"
figure fork_and_exec_in_guest_instructions "$(column 3)"
figure exec_true_beyond_milliseconds "$(awk -v a="$(column 4)" -v b="$(column 3)" 'BEGIN { printf "%.2f", (a - b) / 1e6 }')"

# What every scenario uses. A scenario is a script that runs as root in the lab machine; it holds when
# it ends with status 0. Sourced by `. /lab/lib.sh`.
set -uo pipefail
export LC_ALL=C.UTF-8
kernel=/lab/guest/vmlinuz
base_initrd=/lab/guest/initrd
work=/tmp/scenario
read -r engine </lab/engine
quiet='console=ttyS0 quiet panic=-1 mitigations=off'
mkdir -p "$work"
cd "$work" || exit 1

# fail TEXT: ends the scenario; what the guest and the VM process wrote comes first.
fail() {
    for log in "$work"/*.console; do
        [ -s "$log" ] && { echo "--- $log"; tail -n 40 "$log"; }
    done
    for log in $(find "${XDG_STATE_HOME:-$HOME/.local/state}" -name '*.log' 2>/dev/null); do
        echo "--- $log"
        tail -n 20 "$log"
    done
    gave_twice && echo "The lab's CPU gave a guest an interrupt twice: docs/src/lab.md, What the emulated CPU lacks"
    echo "FAILED: $*"
    exit 1
}

# figure NAME NUMBER: a number for the scenario's closing JSON line.
figure() { echo "figure $1 $2"; }

# median: of the numbers on standard input, one a line.
median() { sort -g | awk '{ all[NR] = $1 } END { if (NR) printf "%.1f", (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'; }

# step TEXT: what is being done now, for the reader of the output.
step() { echo "* $*"; }

now() { date +%s.%N; }

# since START: seconds from then to now, with two decimals.
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

# guest_initrd FILE: the guests' initial RAM disk with standard input added as /check.
guest_initrd() {
    local add
    add=$(mktemp -d)
    { echo '#!/bin/busybox sh'; cat; } >"$add/check"
    chmod 0755 "$add/check"
    { cat "$base_initrd"; (cd "$add" && echo check | busybox cpio -o -H newc 2>/dev/null); } >"$1"
    rm -r "$add"
}

# run_guest NAME ARGUMENT...: runs a guest in the foreground on the engine under test, keeps its
# console in NAME.console, and leaves the guest's code in $code. A guest that hangs is ended (124).
run_guest() {
    local name=$1
    shift
    macrohard-hypervisor run --engine "$engine" --timeout "${timeout:-240}" "$@" </dev/null >"$work/$name.console" 2>&1
    code=$?
}

# expect_code CODE WHAT: the last guest's code.
expect_code() { [ "$code" = "$1" ] || fail "$2: expected code $1, found $code"; }

# console_has NAME TEXT: the guest NAME printed this.
console_has() { grep -q -F -- "$2" "$work/$1.console" || fail "the console of $1 lacks: $2"; }

# wait_for SECONDS WHAT COMMAND...: waits until a command succeeds.
wait_for() {
    local seconds=$1 what=$2
    shift 2
    within "$seconds" "$@" || fail "waited in vain for: $what"
}

# within SECONDS COMMAND...: waits until a command succeeds; says whether it did in time.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

# watch_cpu: from now on, gave_twice says whether the lab's CPU gave a guest an interrupt twice, which
# it does under icount (docs/src/lab.md) and which a guest rarely survives. Costs instructions at each exit.
tracing=/sys/kernel/tracing
watch_cpu() {
    [ -e $tracing/trace ] || mount -t tracefs tracefs $tracing || fail "the lab kernel has no tracefs"
    # The CPU leaves in EXITINTINFO what it gave last: here type 3, "exception", with a vector that no
    # exception has (APM 2 15.20).
    echo 'intr_info >= 0x320 && intr_info <= 0x3ff' >$tracing/events/kvm/kvm_exit/filter
    echo 1 >$tracing/events/kvm/kvm_exit/enable
    echo >$tracing/trace
}

gave_twice() { grep -q 'kvm_exit:.*intr_info 0x000003' $tracing/trace 2>/dev/null; }

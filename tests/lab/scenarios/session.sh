#!/bin/bash
# The promised command session: create, start, list, console, pause, resume, stop, delete; bad input is
# refused in words; killing the daemon or one VM leaves every other running and the state true.
# lab: memory=3072 cpus=2 limit=1200
. /lab/lib.sh

guest_initrd initrd <<'END'
echo "guest: prompt"
lab-tool power-button >/dev/null &
button=$!
( while read -r line; do echo "answer to $line"; done </dev/ttyS0 ) &
wait $button
poweroff -f
END
create() {
    macrohard-hypervisor create --name "$1" --engine "$engine" --memory 192 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" --append "$quiet"
}
running() { macrohard-hypervisor list --json | grep -q "\"$1\""; }
pid_of() { macrohard-hypervisor status "$1" --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }
# prompt NAME TIMES: the console of all its runs has shown the prompt so often.
prompt() { wait_for 120 "prompt $2 of $1" sh -c "[ \$(macrohard-hypervisor logs '$1' --console | grep -c 'guest: prompt') = $2 ]"; }

step "bad input"
refused() {
    local code=$1
    shift
    macrohard-hypervisor "$@" >refusal 2>&1 </dev/null
    local found=$?
    [ "$found" = "$code" ] || fail "$*: expected code $code, found $found: $(cat refusal)"
    [ -s refusal ] || fail "$*: refused without a word"
}
refused 2 create --name x --engine warp
refused 2 create
refused 2 create --name a/b --memory 128
refused 1 start nobody
refused 1 create --name lost --memory 128 --disk "$work/missing.qcow2"
macrohard-hypervisor list --all | grep -q lost && fail "a half-made VM is left"

step "session"
create one || fail "create one"
create "Two of it" || fail "create a name with spaces"
create one 2>/dev/null && fail "a name is taken twice"
macrohard-hypervisor start one || fail "start one"
macrohard-hypervisor start "Two of it" || fail "start two"
running one && running "Two of it" || fail "list lacks a running VM"
prompt one 1
prompt "Two of it" 1
cat >console.exp <<'END'
set timeout 60
spawn macrohard-hypervisor console one
expect "guest: prompt" {} timeout { }
send "hello\r"
expect { "answer to hello" {} timeout { exit 3 } }
send "\x1d"
expect { eof {} timeout { exit 4 } }
END
expect console.exp >expect.console 2>&1 || fail "the console session"
macrohard-hypervisor pause one && macrohard-hypervisor resume one || fail "pause and resume"
macrohard-hypervisor stats one | grep -q -i port || fail "stats shows no exits"

step "the daemon dies"
one=$(pid_of one)
two=$(pid_of "Two of it")
daemon=$(pgrep -x macrohardd) || fail "no daemon runs"
kill -9 $daemon
sleep 0.5
kill -0 "$one" && kill -0 "$two" || fail "a VM died with the daemon"
running one && running "Two of it" || fail "the new daemon did not adopt the running VMs"
[ "$(pid_of one)" = "$one" ] || fail "the adopted VM has another process"

step "a VM dies"
kill -9 "$one"
wait_for 20 "the crash of one" sh -c 'macrohard-hypervisor status one --json | grep -q crashed'
macrohard-hypervisor status one | grep -q -i -E 'kill|signal' || fail "the reason is missing: $(macrohard-hypervisor status one)"
kill -0 "$two" && running "Two of it" || fail "the other VM died too"
macrohard-hypervisor start one || fail "a crashed VM does not start again"
prompt one 2

step "the end"
macrohard-hypervisor stop one --timeout 60 || fail "stop one"
macrohard-hypervisor delete "Two of it" --yes 2>/dev/null && fail "a running VM is deleted"
macrohard-hypervisor stop "Two of it" --force || fail "stop --force"
macrohard-hypervisor delete one --yes && macrohard-hypervisor delete "Two of it" --yes || fail "delete"
[ "$(macrohard-hypervisor list --all --json | tr -d ' \n')" = '{"vms":[],"broken":[]}' ] || fail "something is left: $(macrohard-hypervisor list --all)"

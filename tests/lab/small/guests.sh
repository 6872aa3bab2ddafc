#!/bin/sh
# On Intel's kind of processor the Debian kernel runs beneath which the core lies; its guests are tiny ones, with one and
# with two virtual CPUs, and the same Debian kernel, which boots to its first program.
# lab: memory=384 pool=256 cpus=1 limit=3000
fail() { echo "FAILED: $*"; exit 1; }
cd /tmp || exit 1

echo "* root"
grep -q -w vmx /proc/cpuinfo && fail "root sees VMX"
macrohard-hypervisor core status || fail "core status"
macrohard-hypervisor core log

lab-tool tiny-guests tiny || fail "the tiny guests cannot be written"
# run NAME ARGUMENT...: the guest's console in NAME.console, its code in $code.
run() {
    name=$1
    shift
    macrohard-hypervisor run --engine core --timeout 1500 --net none "$@" </dev/null >"$name.console" 2>&1
    code=$?
}
for name in hello matrix; do
    echo "* $name"
    run "$name" --memory 16 --kernel "tiny/$name.bin"
    [ "$code" = "$(cat "tiny/$name.status")" ] || fail "$name ended with $code: $(cat "$name.console")"
    tr -d '\r' <"$name.console" | cmp -s - "tiny/$name.output" || fail "$name printed: $(cat "$name.console")"
done
echo "* smp"
run smp --memory 16 --cpus 2 --kernel tiny/smp.image
[ "$code" = 0 ] || fail "smp ended with $code: $(cat smp.console)"

echo "* a Debian kernel"
printf '#!/bin/busybox sh\necho "guest: on $(uname -r)"\nexit 42\n' >check
chmod 0755 check
{ cat /lab/guest/initrd; echo check | cpio -o -H newc 2>/dev/null; } >initrd
run debian --memory 160 --kernel /lab/guest/vmlinuz --initrd initrd --append 'console=ttyS0 quiet panic=-1 mitigations=off'
[ "$code" = 42 ] || fail "the Debian guest ended with $code: $(tail -n 20 debian.console)"
grep -q "guest: on $(uname -r)" debian.console || fail "the Debian guest said: $(tail -n 5 debian.console)"
macrohard-hypervisor core status
macrohard-hypervisor core status | grep -q 'as it was' || fail "the core's memory has changed"
exit 0

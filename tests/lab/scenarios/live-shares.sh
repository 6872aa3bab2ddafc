#!/bin/bash
# Folders are shared with a running guest by its agent, over 9P on vsock: both sides see each other's
# changes at once, files are the user's own, random work comes out as on a local folder, locks hold between
# two programs of the guest; shares survive the death of the agent, of the daemon and of their own process,
# come with the next start, and go when they are removed. Single files are seen alone and can be saved by
# rename. Shares by device are mounted as well, and one that cannot be is shared live. Names are bytes,
# extended attributes of users are kept, and a folder that the host moves out of a share is out of reach.
# lab: memory=2048 cpus=2 scratch=16 limit=1500
. /lab/lib.sh

guest_initrd initrd <<'END'
mkdir -p /run /etc /root /home/one /home/two
printf 'root:x:0:0::/root:/bin/sh\none:x:1000:1000::/home/one:/bin/sh\ntwo:x:1001:1001::/home/two:/bin/sh\n' >/etc/passwd
printf 'root:x:0:\none:x:1000:\ntwo:x:1001:\n' >/etc/group
chown 1000:1000 /home/one
chown 1001:1001 /home/two
# Somebody has this device, which can be mounted once: the agent cannot.
mkdir -p /mnt/taken && mount -t 9p -o trans=virtio,version=9p2000.L taken /mnt/taken || exit 2
( while :; do su one -c 'macrohard-guest-agent session'; sleep 0.5; done ) &
while [ ! -e /tmp/end ]; do
    macrohard-guest-agent system
    sleep 0.1
done
exit 0
END
mkdir byplan9 byfs taken
echo live >taken/file
echo device >byplan9/file
echo device >byfs/file
macrohard-hypervisor create --name live --engine "$engine" --memory 320 --cpus 1 --net none --kernel "$kernel" --initrd "$work/initrd" \
    --append "$quiet" --share "$work/byplan9:byplan9:9p" --share "$work/byfs:byfs:ro:virtio-fs" \
    --share "$work/taken:taken:ro:9p" || fail "create"
macrohard-hypervisor start live || fail "start"
# The session's agent runs it: busybox has no runuser.
as_user() { macrohard-hypervisor exec --wait 300 live -- "$@"; }
as_root() { macrohard-hypervisor exec --wait 300 --user root live -- "$@"; }
sees() { [ "$(as_user cat "$1")" = "$2" ]; }
listed() { macrohard-hypervisor share list live | grep -q "$1"; }
as_root true || fail "no agent"
session() { macrohard-hypervisor status live | grep -q '^agents.*one'; }
wait_for 60 "the session" session

step "shares by device"
wait_for 60 "the 9P device" listed 'byplan9.*mounted at'
wait_for 60 "the virtio-fs device" listed 'byfs.*mounted at'
wait_for 10 "the link" as_user test -d Host/byplan9
sees Host/byplan9/file device || fail "the 9P device: $(macrohard-hypervisor share list live; as_root cat /proc/mounts)"
sees Host/byfs/file device || fail "the virtio-fs device: $(macrohard-hypervisor share list live)"
as_user touch Host/byfs/new 2>/dev/null && fail "a read-only device is written to"

step "a device that cannot be mounted"
wait_for 60 "the share without its device" listed 'taken.*9p-vsock.*mounted at.*not by its device'
sees Host/taken/file live || fail "not seen: $(macrohard-hypervisor share list live)"
as_user touch Host/taken/new 2>/dev/null && fail "a read-only share is written to"

step "a folder for a running guest"
mkdir -p "a folder/below" fixed
echo "of the host" >"a folder/from-host"
chmod 644 "a folder/from-host"
echo fixed >fixed/file
start=$(now)
macrohard-hypervisor share add live "$work/a folder" --tag t || fail "share add"
figure add_seconds "$(since "$start")"
macrohard-hypervisor share add live "$work/fixed" --read-only || fail "share add --read-only"
macrohard-hypervisor share list live --json | tee list.json
sees Host/t/from-host "of the host" || fail "not seen: $(cat list.json; as_root cat /proc/mounts)"
[ "$(as_user stat -c %u:%g Host/t/from-host)" = 1000:1000 ] || fail "the owner: $(as_user stat -c %u:%g Host/t/from-host)"
as_user readlink Host | grep -qx /run/macrohard-guest/1000 || fail "the link: $(as_user readlink Host)"
as_root su two -c 'ls /run/macrohard-guest/1000' 2>/dev/null && fail "another user enters"

step "changes are seen at once"
for round in 1 2 3 4 5; do
    echo "host $round" >"a folder/turn"
    sees Host/t/turn "host $round" || fail "the guest sees $(as_user cat Host/t/turn) instead of host $round"
    as_user sh -c "echo 'guest $round' >Host/t/turn" || fail "the guest cannot write"
    [ "$(cat "a folder/turn")" = "guest $round" ] || fail "the host sees $(cat "a folder/turn")"
done
rm "a folder/turn"
as_user test -e Host/t/turn && fail "what the host removed is still there"
as_user sh -c 'mkdir Host/t/made && echo x >Host/t/made/x && mv Host/t/made Host/t/moved && chmod 600 Host/t/moved/x' || fail "changes"
[ "$(stat -c %a "a folder/moved/x")" = 600 ] || fail "the mode"
as_user chown 0:0 Host/t/from-host 2>/dev/null && fail "a file is given away"
as_user sh -c 'echo changed >Host/fixed/file' 2>/dev/null && fail "a read-only share is written to"
as_root mount -o remount,rw /run/macrohard-guest/1000/fixed 2>/dev/null
as_root sh -c 'echo changed >/run/macrohard-guest/1000/fixed/file' 2>/dev/null && fail "the host lets a read-only share be written to"
[ "$(cat fixed/file)" = fixed ] || fail "the read-only share was changed"

step "nothing else is reached"
echo secret >secret
ln -s ../secret "a folder/relative"
ln -s "$work/secret" "a folder/absolute"
as_root sh -c 'cat /run/macrohard-guest/1000/t/relative /run/macrohard-guest/1000/t/absolute /run/macrohard-guest/1000/t/../secret' 2>/dev/null | grep -q secret && fail "a link leads out"
as_root mknod /run/macrohard-guest/1000/t/device b 1 0 2>/dev/null && fail "a device is made"

step "names are bytes"
mkdir "a folder/names"
odd=$'not text: \xff\xfe'
long=$(printf 'n%.0s' {1..255})
for name in plain "$odd" "$long"; do echo "$name" >"a folder/names/$name" || fail "a name on the host"; done
[ "$(as_user ls Host/t/names | wc -l)" = 3 ] || fail "the listing: $(as_user ls Host/t/names)"
as_user sh -c 'cat Host/t/names/*' | cmp - <(cat "a folder/names/"*) || fail "the files of a folder with odd names"
as_user sh -c 'cd Host/t/names && for name in not*; do mv "$name" moved; done' && [ "$(cat "a folder/names/moved")" = "$odd" ] ||
    fail "a file with an odd name is not renamed"

step "extended attributes of users"
# The RAM disk that all else lies on has none.
{ mkfs.ext4 -q /dev/vdc && mkdir attributes && mount /dev/vdc attributes; } || fail "no file system with attributes"
echo x >attributes/file && chmod 777 attributes && chmod 666 attributes/file
macrohard-hypervisor share add live "$work/attributes" --tag a || fail "share add"
as_user lab-tool attribute Host/a/file user.origin guest || fail "an attribute is not set"
[ "$(as_user lab-tool attribute Host/a/file user.origin)" = guest ] || fail "an attribute is not read"
[ "$(as_user lab-tool attribute Host/a/file)" = user.origin ] || fail "the list of attributes"
[ "$(lab-tool attribute attributes/file user.origin)" = guest ] || fail "the attribute on the host"
as_root lab-tool attribute /run/macrohard-guest/1000/a/file trusted.x y 2>/dev/null && fail "an attribute that is not a user's"
[ "$(lab-tool attribute attributes/file)" = user.origin ] || fail "the host has other attributes: $(lab-tool attribute attributes/file)"

step "a folder that is moved out of the share"
mkdir "a folder/leaves" && echo secret >"a folder/leaves/file"
as_user sh -c 'cd Host/t/leaves && touch here && for try in 1 2 3 4 5 6 7 8 9; do [ -e ../gone ] && break; sleep 1; done; cat file' >leaves.out 2>&1 &
reading=$!
wait_for 60 "the program in the folder" test -e "a folder/leaves/here"
mv "a folder/leaves" leaves
touch "a folder/gone"
wait $reading && fail "a folder outside of the share is read: $(cat leaves.out)"
grep -q secret leaves.out && fail "a folder outside of the share was read"

step "random work as in a local folder"
for seed in 1 2 3; do
    as_user sh -c "rm -rf Host/t/work local; mkdir Host/t/work local && lab-tool files Host/t/work local --seed $seed --steps 600" || fail "seed $seed"
done
as_user tar c -C local . >local.tar || fail "tar"
mkdir local && tar x -C local -f local.tar --no-same-owner
diff -r local "a folder/work" || fail "the host's tree differs"

step "locks between two programs"
as_user sh -c 'cd Host/t
    lab-tool lock lock -- sh -c "touch held; sleep 8; rm held" & while [ ! -e held ]; do sleep 0.1; done
    lab-tool lock lock --now -- true 2>/dev/null && exit 3; lab-tool lock lock -- test ! -e held || exit 4; wait' ||
    fail "a lock holds nobody off ($?)"

step "how fast"
head -c 67108864 /dev/zero >"a folder/large"
start=$(now)
as_user sh -c 'cat Host/t/large >/dev/null' || fail "read"
figure read_64_mib_seconds "$(since "$start")"
start=$(now)
as_user dd if=/dev/zero of=Host/t/written bs=1M count=32 2>/dev/null || fail "write"
figure write_32_mib_seconds "$(since "$start")"
rm -f "a folder/large" "a folder/written"

step "a file alone"
mkdir private
echo letter >private/letter.txt
echo secret >private/secret.txt
macrohard-hypervisor share add live "$work/private/letter.txt" || fail "share add FILE: $(macrohard-hypervisor share list live)"
sees Host/opened-1/letter.txt letter || fail "the file is not seen"
[ "$(as_user ls Host/opened-1)" = letter.txt ] || fail "more than the file is seen: $(as_user ls Host/opened-1)"
as_user cat Host/opened-1/secret.txt 2>/dev/null && fail "a neighbour is read"
as_user sh -c 'echo x >Host/opened-1/secret.txt' 2>/dev/null && fail "a neighbour is written to"
as_user sh -c 'cd Host/opened-1 && echo better >.letter.new && mv .letter.new letter.txt' || fail "saving by rename"
[ "$(cat private/letter.txt)" = better ] && [ "$(cat private/secret.txt)" = secret ] || fail "the saved file: $(cat private/*)"
as_user sh -c 'cd Host/opened-1 && mv letter.txt secret.txt' 2>/dev/null && fail "a neighbour is replaced"
[ "$(cat private/secret.txt)" = secret ] || fail "a neighbour was replaced"

step "the agent is killed"
before=$(as_root sh -c 'grep macrohard-share /proc/self/mountinfo | cut -d " " -f 1' | sort | tr '\n' ' ')
as_root killall -KILL macrohard-guest-agent 2>/dev/null
as_root true || fail "no agent after the first was killed"
wait_for 60 "the session again" session
wait_for 60 "the shares again" listed 't .*mounted at'
sees Host/t/from-host "of the host" || fail "the share is lost"
after=$(as_root sh -c 'grep macrohard-share /proc/self/mountinfo | cut -d " " -f 1' | sort | tr '\n' ' ')
[ "$before" = "$after" ] || fail "mounts were made anew: $before and $after"

step "the daemon is killed"
processes=$(pgrep -x macrohard-share | sort | tr '\n' ' ')
pkill -KILL macrohardd
as_root true || fail "the next daemon hears of no agent"
wait_for 60 "the session again" session
sees Host/t/from-host "of the host" || fail "the share is lost"
wait_for 60 "the shares again" listed 't .*mounted at'
[ "$(pgrep -x macrohard-share | sort | tr '\n' ' ')" = "$processes" ] || fail "the share processes were not found again"
listed opened-1 || fail "the opened file is forgotten"

step "the share processes are killed"
kill -KILL $processes
wait_for 60 "the share again" sees Host/t/from-host "of the host"
wait_for 60 "the opened file again" sees Host/opened-1/letter.txt better
macrohard-hypervisor share list live

step "a share is removed"
macrohard-hypervisor share remove live t || fail "share remove"
as_user ls Host/t/from-host 2>/dev/null && fail "the share is still there"
as_root grep -q '/1000/t ' /proc/mounts && fail "the mount is still there"
[ "$(ls "a folder/from-host")" ] || fail "the host's folder is gone"

step "the next start"
as_root touch /tmp/end
as_root killall macrohard-guest-agent 2>/dev/null
wait_for 60 "the guest's end" sh -c '! macrohard-hypervisor list | grep -q live'
wait_for 20 "the end of the share processes" sh -c '! pgrep -x macrohard-share'
macrohard-hypervisor start live || fail "start again"
as_root true || fail "no agent at the next start"
wait_for 60 "the session at the next start" session
wait_for 60 "the share at the next start" sees Host/fixed/file fixed
listed opened-1 && fail "an opened file outlived the run"
macrohard-hypervisor stop live --force || fail "stop"

#!/bin/bash
# A guest reads and writes a shared folder over 9P and over virtio-fs; a read-only share refuses to
# change; nothing outside the shared folder is reached, by dots or by symbolic link.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

for kind in 9p virtio-fs; do
    step "$kind"
    rm -rf shared fixed secret && mkdir shared fixed && echo "of the host" >shared/from-host
    echo fixed >fixed/file && echo secret >secret
    ln -s ../secret shared/relative && ln -s "$work/secret" shared/absolute
    guest_initrd initrd <<END
mkdir /w /r
case $kind in
9p) mount -t 9p -o trans=virtio,version=9p2000.L,msize=65536 shared /w && mount -t 9p -o trans=virtio,version=9p2000.L,ro fixed /r ;;
*) mount -t virtiofs shared /w && mount -t virtiofs fixed /r ;;
esac || exit 2
[ "\$(cat /w/from-host)" = "of the host" ] || exit 3
mkdir /w/folder && echo "of the guest" >/w/folder/from-guest || exit 4
mv /w/folder/from-guest /w/folder/renamed || exit 5
# Over 9P a guest sees links and makes none.
if [ $kind != 9p ]; then ln -s renamed /w/folder/link && [ "\$(cat /w/folder/link)" = "of the guest" ] || exit 13; fi
dd if=/dev/urandom of=/w/large bs=1M count=4 2>/dev/null && sha256sum </w/large >/w/digest || exit 6
[ "\$(cat /r/file)" = fixed ] || exit 7
# The guest's own idea of read-only is not the point: the host must refuse.
mount -o remount,rw /r 2>/dev/null
if echo changed 2>/dev/null >/r/file; then exit 8; fi
if mkdir /r/new 2>/dev/null; then exit 9; fi
# Links are followed by the guest in its own tree, never by the host.
if grep -q secret /w/relative 2>/dev/null || grep -q secret /w/absolute 2>/dev/null; then exit 10; fi
if grep -q secret /w/../secret 2>/dev/null; then exit 11; fi
rm /w/from-host || exit 12
exit 0
END
    start=$(now)
    run_guest "share-$kind" --memory 256 --net none --kernel "$kernel" --initrd initrd --append "$quiet" \
        --share "$work/shared:shared:$kind" --share "$work/fixed:fixed:ro:$kind"
    expect_code 0 "the guest with a $kind share"
    figure "seconds_${kind/-/_}" "$(since "$start")"
    [ "$(cat shared/folder/renamed)" = "of the guest" ] || fail "$kind: the host misses the guest's file"
    [ "$(sha256sum <shared/large)" = "$(cat shared/digest)" ] || fail "$kind: the large file differs"
    [ ! -e shared/from-host ] || fail "$kind: the guest's removal did not reach the host"
    [ "$(cat fixed/file)" = fixed ] && [ ! -e fixed/new ] || fail "$kind: the read-only share was changed"
done

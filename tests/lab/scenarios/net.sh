#!/bin/bash
# A guest reaches a server of the lab machine through passt, and through a tap interface; bytes arrive
# unharmed, and the guest answers a ping on the tap.
# lab: memory=2048 cpus=2 limit=900
. /lab/lib.sh

mkdir -p www && head -c 3000000 /dev/urandom >www/file
busybox httpd -p 8080 -h "$work/www"
want=$(sha256sum <www/file | cut -d ' ' -f 1)

# The lab machine needs an address that passt can hand on to the guest, and another for the server.
ip link add uplink type dummy && ip address add 10.7.0.1/24 dev uplink && ip link set uplink up
ip route add default via 10.7.0.254 dev uplink
ip link add inner type dummy && ip address add 10.9.0.1/24 dev inner && ip link set inner up

step "passt"
guest_initrd initrd <<END
ip link set eth0 up
udhcpc -q -n -i eth0 -s /bin/udhcpc-script >/tmp/dhcp 2>&1 || { cat /tmp/dhcp; exit 2; }
ip address show dev eth0
wget -q -O /tmp/file http://10.9.0.1:8080/file || { ip route; exit 3; }
[ "\$(sha256sum </tmp/file | cut -d ' ' -f 1)" = $want ] || exit 4
exit 0
END
start=$(now)
run_guest passt --memory 256 --net passt --kernel "$kernel" --initrd initrd --append "$quiet"
expect_code 0 "the guest behind passt"
figure seconds_passt "$(since "$start")"

step "tap"
ip tuntap add dev lab0 mode tap && ip address add 10.8.0.1/24 dev lab0 && ip link set lab0 up
guest_initrd initrd <<END
ip address add 10.8.0.2/24 dev eth0 && ip link set eth0 up || exit 2
ping -c 2 -W 5 10.8.0.1 || exit 3
wget -q -O /tmp/file http://10.8.0.1:8080/file || exit 4
[ "\$(sha256sum </tmp/file | cut -d ' ' -f 1)" = $want ] || exit 5
exit 0
END
start=$(now)
run_guest tap --memory 256 --net tap=lab0 --kernel "$kernel" --initrd initrd --append "$quiet"
expect_code 0 "the guest on a tap"
figure seconds_tap "$(since "$start")"

#!/bin/busybox sh
# Called by busybox udhcpc when a lease is there.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address flush dev "$interface"
ip address add "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do
    # The gateway may lie outside the netmask that was handed out.
    ip route add "$gateway" dev "$interface" 2>/dev/null
    ip route add default via "$gateway" dev "$interface"
    break
done

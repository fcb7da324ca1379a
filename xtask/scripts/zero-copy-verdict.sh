#!/bin/sh
# What a node with --zero-copy auto decides by itself, shown without a card:
#
#     sudo xtask/scripts/zero-copy-verdict.sh target/release sink     # ... zero copy is on: ...
#     sudo xtask/scripts/zero-copy-verdict.sh target/release veth     # ... zero copy does not happen: the kernel copies after all ...
#
# A node serves an image over a veth pair (MTU 9000) to 300 devices, and its log's lines about zero copy are printed. `veth`:
# the datagrams arrive, in another namespace of this kernel, which has to copy them for that. `sink`: a rule on the node's
# interface drops the datagrams with 8 KiB of data where a card would have taken them, before anybody copies. The first
# answers to probes of that size arrive, so that devices ask for such datagrams; later ones do not, so that they give up on
# them. So are long trains of smaller datagrams, which the rule cannot tell from one; everything else arrives: devices log in,
# read and stay.
#
# Needs root, Linux 6.15, iproute2, nftables and 72 free pages of 2 MiB. All of it is in namespaces of this run's own, which end
# with it; reserved pages are given back. Ends with 77 where the host cannot do it.
set -eu

programs=${1:?the folder of diskstream-node and diskstream-bench}
way=${2:?sink or veth}
pages=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
node=10.79.0.1

cannot() {
    echo "$1" >&2
    exit 77
}

# In the namespaces: everything that is started here is killed with the first process.
if [ "${3-}" = inside ]; then
    folder=$4
    unshare --net sleep 600 &
    far=$!
    while [ "$(readlink "/proc/$far/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
    ip link set lo up
    ip link add eth0 mtu 9000 type veth peer name eth0 mtu 9000 netns "$far"
    ip addr add "$node/24" dev eth0
    ip link set eth0 up
    nsenter --net="/proc/$far/ns/net" sh -c 'ip addr add 10.79.0.2/24 dev eth0 && ip link set eth0 up'
    if [ "$way" = sink ]; then
        # The fourth byte of a datagram is its kind; 0x21 carries data, 0x47 answers a probe, 8,296 bytes for each device.
        nft -f - <<RULES || cannot "needs nftables with egress hooks (Linux 5.16)"
            table netdev sink {
                quota probes { over 2490 kbytes }
                chain out {
                    type filter hook egress device "eth0" priority 0;
                    udp sport 6911-6930 @th,88,8 0x21 meta length > 8100 drop
                    udp sport 6911-6930 @th,88,8 0x47 meta length > 8100 quota name "probes" drop
                }
            }
RULES
    fi
    head -c 64M /dev/urandom > "$folder/image"
    RUST_LOG=info "$programs/diskstream-node" serve "$folder/image" --listen "$node" --allow-any-mac --cache 128M \
        > "$folder/log" 2>&1 &
    served=$!
    : >> "$folder/log"
    until grep -q '^ready:' "$folder/log"; do
        kill -0 "$served" 2> /dev/null || { cat "$folder/log" >&2; exit 1; }
        sleep 0.05
    done
    # On a machine that does much else a trial may need devices that begin anew.
    for _ in 1 2 3; do
        nsenter --net="/proc/$far/ns/net" "$programs/diskstream-bench" read --servers "$node:6910" --mtu 9000 --no-pin \
            --devices 300 --depth 4 --size 32K --seconds 4 >&2
        if grep -E 'zero copy (is|stays|does)|copied:' "$folder/log"; then exit; fi
        [ "$way" = veth ] || nft reset quota netdev sink probes > /dev/null
    done
    echo "no verdict"
    exit
fi

case $way in sink | veth) ;; *) echo "not sink or veth: $way" >&2; exit 2 ;; esac
for program in flock ip nft nsenter unshare; do
    command -v "$program" > /dev/null || cannot "$program is not installed"
done
[ "$(id -u)" = 0 ] || cannot "needs root for network namespaces and huge pages"
# Held until the number is put back: of two runs that overlap one would put back what the other had added.
exec 9< "$pages"
flock 9
before=$(cat "$pages")
folder=$(mktemp -d)
inside=
end() {
    [ -z "$inside" ] || kill -KILL "$inside" 2> /dev/null || :
    echo "$before" > "$pages"
    # Pages of a process that is ending count until it has ended: whoever reads the number before that takes them for reserved.
    tries=0
    while [ "$(cat "$pages")" -gt "$before" ] && [ "$tries" -lt 200 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' HUP INT TERM
echo $((before + 72)) > "$pages"
[ "$(cat "$pages")" -ge $((before + 72)) ] || cannot "memory is too fragmented for 72 pages of 2 MiB"
unshare --net --mount-proc --pid --fork --kill-child "$0" "$programs" "$way" inside "$folder" 9<&- &
inside=$!
status=0
wait "$inside" || status=$?
inside=
exit "$status"

#!/bin/sh
# What --pace is worth at a switch port with a small buffer, shown without a switch:
#
#     sudo xtask/scripts/paced-queue.sh target/release 3      # three rounds
#
# A node and a fleet of devices in two namespaces, a bridge between them in a third. The bridge's port to the fleet is a token
# bucket of 1 Gbit/s that holds 256 KiB, as a port of a small switch does; the node's own link is as fast as the processor. What
# the node sends at once stays in one piece up to there, so the port drops whole trains (of up to 45 datagrams), and counts them.
# Each round measures each load with `--pace off` and with a pace a tenth below the port; who begins changes. For each: what the
# port dropped, what devices asked for again, their rate and latencies.
#
# Needs root and iproute2. All of it is in namespaces of this run's own, which end with it. Ends with 77 where the host cannot
# do it.
set -eu

programs=${1:?the folder of diskstream-node and diskstream-bench}
rounds=${2:-3}
node=10.80.0.1

cannot() {
    echo "$1" >&2
    exit 77
}

space() { # a namespace of its own, by the process that keeps it
    unshare --net sleep infinity &
    kept=$!
    while [ "$(readlink "/proc/$kept/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
}

bridge() {
    space; nodes=$kept
    space; fleets=$kept
    ip link add name switch type bridge
    ip link add name uplink type veth peer name eth0 netns "$nodes"
    ip link add name port type veth peer name eth0 netns "$fleets"
    for end in uplink port; do ip link set "$end" master switch up; done
    ip link set switch up
    nsenter --net="/proc/$nodes/ns/net" sh -c "ip link set lo up; ip addr add $node/24 dev eth0; ip link set eth0 up"
    nsenter --net="/proc/$fleets/ns/net" sh -c "ip addr add 10.80.0.2/24 dev eth0; ip link set eth0 up"
}

queue() { # the port's queue, empty and uncounted
    tc qdisc replace dev port root tbf rate 1gbit burst 64k limit 256k || cannot "needs the token bucket (sch_tbf)"
}

# A node with this pace, and the load against it.
measure() {
    pace=$1 load=$2 flags=$3
    tc qdisc del dev port root 2> /dev/null || :
    queue
    : > "$folder/log"
    # It runs on core 0 of two, the fleet on the other.
    RUST_LOG=info nsenter --net="/proc/$nodes/ns/net" "$programs/diskstream-node" serve "$folder/image" --listen "$node" \
        --allow-any-mac --cache 128M --cores 0 --pace "$pace" > "$folder/log" 2>&1 &
    served=$!
    until grep -q '^ready:' "$folder/log"; do
        kill -0 "$served" 2> /dev/null || { cat "$folder/log" >&2; exit 1; }
        sleep 0.05
    done
    # shellcheck disable=SC2086 # flags are words
    nsenter --net="/proc/$fleets/ns/net" "$programs/diskstream-bench" read --servers "$node:6910" $flags --seconds 4 \
        > "$folder/table" 2> "$folder/err" || { cat "$folder/err" >&2; exit 1; }
    queue=$(tc -s qdisc show dev port)
    drops=$(echo "$queue" | sed -n 's/.*(dropped \([0-9]*\).*/\1/p' | head -1)
    echo "$load, pace $pace: $drops trains dropped at the port"
    sed -n -E 's/^ +(MiB|latency|requests)/    \1/p' "$folder/table"
    kill -TERM "$served"
    wait "$served" || :
}

if [ "${3-}" = inside ]; then
    folder=$4
    ip link set lo up
    bridge
    head -c 64M /dev/urandom > "$folder/image"
    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        if [ $((round % 2)) = 1 ]; then order="off 900M"; else order="900M off"; fi
        for load in "1000x1x4K" "64x16x4K" "64x1x128K"; do
            devices=${load%%x*} rest=${load#*x}
            for pace in $order; do
                measure "$pace" "$load" "--devices $devices --depth ${rest%%x*} --size ${rest#*x}"
            done
        done
    done
    exit
fi

for program in ip tc nsenter unshare; do
    command -v "$program" > /dev/null || cannot "$program is not installed"
done
[ "$(id -u)" = 0 ] || cannot "needs root for network namespaces"
folder=$(mktemp -d)
inside=
end() {
    [ -z "$inside" ] || kill -KILL "$inside" 2> /dev/null || :
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' HUP INT TERM
unshare --net --mount-proc --pid --fork --kill-child "$0" "$programs" "$rounds" inside "$folder" &
inside=$!
status=0
wait "$inside" || status=$?
inside=
exit "$status"

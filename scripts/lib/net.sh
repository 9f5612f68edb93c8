# The demo's network: namespaces joined by a switch, and the processes in them. Sourced by scripts/demo.
#
#   client 192.0.2.10 ──┐              ┌── b1 10.0.0.11   nginx
#                       ├── switch ────┼── b2 10.0.0.12   nginx
#   weir 192.0.2.2 ─────┘  (a bridge)  └── b3 10.0.0.13   nginx
#        10.0.0.1
#
# Every name carries this shell's process number, so two runs do not meet. Nothing here touches the machine's own
# interfaces, addresses, routes or system-wide settings.
# shellcheck shell=bash

net_tag="weir-demo-$$"
net_dir=""          # temporary files of this run
net_pids=()         # processes started here, and only these are ever killed
net_namespaces=()

in_ns() { local ns=$1; shift; ip netns exec "$net_tag-$ns" "$@"; }

# Runs in a namespace on the cores that weir's worker does not poll.
on_kernel_core() { local ns=$1; shift; in_ns "$ns" taskset -c "$kernel_cores" "$@"; }

# spawn CORES NS COMMAND…: starts a process in a namespace, in the background; its number is then in `spawned`.
# (A shell function sent to the background would be a shell of its own, and the signals would reach only that.)
spawn() {
    local cores=$1 ns=$2
    shift 2
    ip netns exec "$net_tag-$ns" taskset -c "$cores" "$@" &
    spawned=$!
    net_pids+=("$spawned")
}

net_namespace() {
    ip netns add "$net_tag-$1"
    net_namespaces+=("$1")
    in_ns "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip -n "$net_tag-$1" link set lo up
}

# A real wire carries finished checksums and single frames; a veth by default carries neither.
net_plain_wire() { in_ns "$1" ethtool -K "$2" rx off tx off tso off gso off gro off >/dev/null 2>&1; }

# net_plug NS [ADDRESS/LEN …]: a namespace with `eth0` plugged into the switch.
net_plug() {
    local ns=$1; shift
    net_namespace "$ns"
    ip link add eth0 netns "$net_tag-$ns" type veth peer name "to-$ns" netns "$net_tag-switch"
    ip -n "$net_tag-switch" link set "to-$ns" master br0 up
    net_plain_wire "$ns" eth0
    net_plain_wire switch "to-$ns"
    local address
    for address in "$@"; do ip -n "$net_tag-$ns" addr add "$address" dev eth0; done
    ip -n "$net_tag-$ns" link set eth0 up
}

net_up() {
    net_dir=$(mktemp -d "/tmp/$net_tag.XXXXXX")
    net_namespace switch
    ip -n "$net_tag-switch" link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip -n "$net_tag-switch" link set br0 up

    net_plug client 192.0.2.10/24
    ip -n "$net_tag-client" route add 198.51.100.0/24 via 192.0.2.2
    # The balancer's interface has no address for the kernel: every frame on it is weir's.
    net_plug balancer

    local i
    for i in 1 2 3; do
        net_plug "b$i" "10.0.0.1$i/24"
        ip -n "$net_tag-b$i" route add default via 10.0.0.1
        # For dsr-l2 the VIP is on the loopback, never announced by ARP, and answers from it go to the client directly.
        in_ns "b$i" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 \
            net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
        ip -n "$net_tag-b$i" addr add "$vip_dsr/32" dev lo
        ip -n "$net_tag-b$i" route add 192.0.2.0/24 dev eth0 table 20
        ip -n "$net_tag-b$i" rule add from "$vip_dsr" table 20
        net_nginx "b$i"
    done
}

# net_nginx NS: a web server that answers with its namespace's name, and counts on 127.0.0.1:81.
net_nginx() {
    local ns=$1 dir="$net_dir/$1"
    mkdir -p "$dir"
    cat >"$dir/nginx.conf" <<CONF
user root;
master_process off;   # one process, so that a signal reaches all of it
daemon off;
pid $dir/pid;
error_log $dir/error.log warn;
events { worker_connections 1024; }
http {
    access_log off;
    default_type text/plain;
    keepalive_requests 100;   # so that connections under load come and go
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    server {
        listen 8080 backlog=4096;
        listen 80 backlog=4096;
        location / { return 200 "$ns\n"; }
    }
    server {
        listen 127.0.0.1:81;
        location / { stub_status; }
    }
}
CONF
    spawn "$kernel_cores" "$ns" nginx -e "$dir/error.log" -p "$dir" -c "$dir/nginx.conf" >"$dir/out.log" 2>&1
    wait_until 5 "nginx in $ns" in_ns "$ns" curl -s -o /dev/null http://127.0.0.1:81/
}

# Requests that a backend's nginx has served so far (less the status requests themselves), and open connections.
nginx_requests() { in_ns "$1" curl -s http://127.0.0.1:81/ | awk 'NR == 3 { print $3 }'; }
nginx_connections() { in_ns "$1" curl -s http://127.0.0.1:81/ | awk 'NR == 1 { print $3 - 1 }'; }

# wait_until SECONDS WHAT COMMAND…: polls ten times a second, at most SECONDS long.
wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "waited in vain for: $what" >&2; return 1; }
        sleep 0.1
    done
}

# stop PID [SECONDS]: asks a process of ours to end, and makes it end if it has not within SECONDS. Tells whether it
# ended by itself, and well.
stop() {
    local pid=$1 i
    kill -TERM "$pid" 2>/dev/null || return 0
    for ((i = 0; i < ${2:-5} * 10; i++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid" 2>/dev/null
            return
        fi
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    return 1
}

net_down() {
    local i
    for ((i = ${#net_pids[@]} - 1; i >= 0; i--)); do stop "${net_pids[i]}" || true; done
    for ((i = ${#net_namespaces[@]} - 1; i >= 0; i--)); do ip netns del "$net_tag-${net_namespaces[i]}" || true; done
    rm -f "/dev/shm/weir.$instance"
    [ -z "$net_dir" ] || rm -rf "$net_dir"
}

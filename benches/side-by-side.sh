#!/usr/bin/env bash
# Runs the gates against several brokers side by side and prints a Markdown table of medians and ratios.
#
# Each run has a freshly started broker, pinned to one core, and the load pinned to another. Brokers take turns
# within a repetition, so that a drift of the machine touches all alike.
#
# Brokers are given by environment variables that name their programs; those that are missing are left out:
#   STAUNCH    staunch serve --dev --listen ...
#   PROBE      the feasibility probe: PROBE ADDRESS WORKERS (no Sync, literal observers only)
#   REFERENCE  syndicate-server
#   RELAY      the bare relay of this package (cargo build --release -p staunch-benches --bin relay)
#   NATS       nats-server
# Further:
#   LOAD        staunch-load [target/release/staunch-load]
#   GATES       quick, crowd, memory, all, or names of gates [quick]
#   REPEAT      repetitions [3]           DURATION  seconds of sending in each run [5]
#   BROKER_CPU  core of the broker [0]    LOAD_CPU  core of the load [1]
#   WORKERS     threads of the probe, and of staunch if it is to have that many [1]
#   OUT         where reports are kept [a new temporary directory]
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2

LOAD=${LOAD:-target/release/staunch-load}
REPEAT=${REPEAT:-3} DURATION=${DURATION:-5} BROKER_CPU=${BROKER_CPU:-0} LOAD_CPU=${LOAD_CPU:-1}
WORKERS=${WORKERS:-1} OUT=${OUT:-$(mktemp -d)} GATES=${GATES:-quick}
PORT=${PORT:-9471}
scratch=$(mktemp -d)
broker_pid=
trap 'stop_broker; rm -rf "$scratch"' EXIT

say() { echo "$*" >&2; }

quick="1to1-64 1to1-1k fan10-64 fan100-64 pingpong-tcp pingpong-unix pingpong-tcp-free pingpong-unix-free"
quick+=" pingpong-tcp-shared churn"
crowd="observers held skeletons"
memory="idle held-observed stall stall-assertions"

# Gates by name: which brokers can play, and what the load is told. The reference is asked for less where it
# would take minutes or all memory.
players() {
    case $1 in
    1to1-*) echo staunch probe reference relay nats ;;
    fan*) echo staunch probe reference nats ;;
    pingpong-tcp*) echo staunch probe reference relay ;;
    pingpong-unix*) echo staunch reference relay ;;
    stall) echo staunch ;;
    observers) echo staunch probe reference ;;
    *) echo staunch reference ;;
    esac
}
arguments() { # gate, broker
    case $1 in
    1to1-64) echo one-to-one --payload 64 ;;
    1to1-1k) echo one-to-one --payload 1024 ;;
    fan10-64) echo fan-out --consumers 10 ;;
    fan100-64) echo fan-out --consumers 100 ;;
    pingpong-*) echo ping-pong ;;
    churn) echo churn ;;
    observers) echo observers --count 100000 --connections 1000 ;;
    held) echo held --count 1000000 ;;
    held-observed) echo held --count 1000000 --observed --duration 1 ;;
    skeletons) [ "$2" = reference ] && echo skeletons --counts 1,10,100 || echo skeletons ;;
    idle) echo idle --count 10000 ;;
    stall) echo stall --observers 1000 --messages 8 ;;
    stall-assertions) echo stall-assertions --count 1000000 ;;
    *) return 1 ;;
    esac
}

# The cores for a gate, given those for broker or load. Round trips between idle cores measure mostly how fast
# the machine wakes them; so they are also run with both on one core, and with both on both.
cores() {
    case $1 in
    *-shared) echo "$BROKER_CPU" ;;
    *-free) echo "$BROKER_CPU,$LOAD_CPU" ;;
    *) echo "$2" ;;
    esac
}

# The duration, unless a gate has its own.
length() { [[ $1 == *--duration* ]] || echo "--duration $DURATION"; }

program() {
    case $1 in
    staunch) echo "${STAUNCH:-}" ;;
    probe) echo "${PROBE:-}" ;;
    reference) echo "${REFERENCE:-}" ;;
    relay) echo "${RELAY:-}" ;;
    nats) echo "${NATS:-}" ;;
    esac
}

# Starts a broker for a gate; sets broker_pid and target.
start_broker() { # gate, broker
    local gate=$1 broker=$2 program socket="$scratch/socket" log="$scratch/$2.log"
    program=$(program "$broker")
    rm -f "$socket"
    target="--tcp 127.0.0.1:$PORT"
    # Stalled consumers too: over TCP the kernel would take megabytes for each, and the broker would not show it.
    [[ $gate == pingpong-unix* || $gate == stall* ]] && target="--unix $socket"
    case $broker in
    staunch)
        local more=()
        [ -n "${STAUNCH_WORKERS:-}" ] && more=(--workers "$STAUNCH_WORKERS")
        # One client makes 10,000 of them.
        [[ $gate == skeletons* ]] && more+=(--limit principal-skeletons-alike=100000)
        set -- "$program" serve --dev --listen "tcp:127.0.0.1:$PORT" --listen "unix:$socket" "${more[@]}" ;;
    probe) set -- "$program" "127.0.0.1:$PORT" "$WORKERS"; target+=" --settle-ms 300" ;;
    reference)
        printf '%s\n' 'let ?ds = dataspace' \
            '<bind <ref {oid: "syndicate" key: #x""}> $ds #f>' \
            "<require-service <relay-listener <tcp \"127.0.0.1\" $PORT> \$gatekeeper>>" \
            "<require-service <relay-listener <unix \"$socket\"> \$gatekeeper>>" >"$scratch/reference.pr"
        set -- env RUST_LOG=error "$program" -c "$scratch/reference.pr" ;;
    relay)
        local listen="tcp:127.0.0.1:$PORT"
        [[ $gate == pingpong-unix* ]] && listen="unix:$socket"
        set -- "$program" --listen "$listen"; target+=" --protocol relay" ;;
    nats) set -- "$program" -a 127.0.0.1 -p "$PORT"; target+=" --protocol nats" ;;
    esac
    (ulimit -n 65536 2>/dev/null; exec taskset -c "$(cores "$gate" "$BROKER_CPU")" "$@") >"$log" 2>&1 &
    broker_pid=$!
    for _ in $(seq 100); do
        sleep 0.1
        kill -0 "$broker_pid" 2>/dev/null || { say "$broker ended at once:"; cat "$log" >&2; broker_pid=; return 1; }
        # A listening socket in the tables of the kernel; connecting would disturb the relay.
        if [[ $target == --unix* ]]; then [ -S "$socket" ] && return
        else grep -q "$(printf ':%04X 00000000:0000 0A' "$PORT")" /proc/net/tcp && return; fi
    done
    say "$broker does not listen"
    return 1
}

stop_broker() {
    [ -n "$broker_pid" ] || return 0
    kill "$broker_pid" 2>/dev/null
    for _ in $(seq 50); do kill -0 "$broker_pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$broker_pid" 2>/dev/null
    wait "$broker_pid" 2>/dev/null
    broker_pid=
}

run_gate() { # gate, broker, repetition
    local report="$OUT/$1.$2.$3.json" args status
    args=$(arguments "$1" "$2") || { say "no such gate: $1"; return 1; }
    start_broker "$1" "$2" || { stop_broker; return 1; }
    # shellcheck disable=SC2086 # lists of words
    taskset -c "$(cores "$1" "$LOAD_CPU")" "$LOAD" $args $(length "$args") $target --broker-pid "$broker_pid" \
        --json "$report" >"$scratch/table" 2>"$scratch/load.log"
    status=$?
    stop_broker
    if [ $status -eq 0 ]; then say "$1 $2 #$3: $(sed -n 3p "$scratch/table")"
    else say "!!! $1 $2 #$3: exit status $status: $(cat "$scratch/load.log" "$scratch/table")"; failures=1; fi
    [ -e "$report" ] && reports+=("$report")
}

case $GATES in
quick) GATES=$quick ;;
crowd) GATES=$crowd ;;
memory) GATES=$memory ;;
all) GATES="$quick $crowd $memory" ;;
esac
brokers=()
for broker in staunch probe reference relay nats; do
    if [ -z "$(program $broker)" ]; then
        say "!!! $broker is LEFT OUT: ${broker^^} is not set"
    elif ! command -v "$(program $broker)" >/dev/null; then
        say "!!! $broker is LEFT OUT: $(program $broker) cannot be run"
    else
        brokers+=("$broker")
    fi
done
mkdir -p "$OUT"
reports=() failures=0
for repetition in $(seq "$REPEAT"); do
    for gate in $GATES; do
        able=" $(players "$gate") "
        for broker in "${brokers[@]}"; do
            [[ $able == *" $broker "* ]] && run_gate "$gate" "$broker" "$repetition"
        done
    done
done
[ ${#reports[@]} -gt 0 ] || { say "nothing was measured"; exit 2; }
echo "Medians of $REPEAT (least-greatest), $DURATION s each; broker on core $BROKER_CPU, load on core $LOAD_CPU," \
    "$(nproc) cores; $(git rev-parse --short HEAD 2>/dev/null)$(git diff --quiet 2>/dev/null || echo '+')."
echo
"$LOAD" compare "${reports[@]}"
say "reports are in $OUT"
exit $failures

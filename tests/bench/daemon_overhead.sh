#!/usr/bin/env bash
# tests/bench/daemon_overhead.sh [--build FOLDER] [--repeat N] MODEL [SMALL-MODEL]
#
# What the daemon adds to the bare engine, and how soon it is ready:
#
#   overhead  sixteen streams of MODEL through the daemon against the same sixteen sequences in engine_bench, in turn.
#             One compute thread, so that the client and gRPC have a core of their own: on a machine whose every core
#             computes, a load client beside the daemon would measure itself.
#   ready     from starting the process to its ready line with SMALL-MODEL (default: MODEL), the file read before
#
#   --build FOLDER  default: build
#   --repeat N      default: 5
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
build=$root/build repeat=5 models=()
while (($#)); do
  case $1 in
    --build | --repeat) printf -v "${1#--}" '%s' "${2:?}"; shift ;;
    --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    *) models+=("$1") ;;
  esac
  shift
done
((${#models[@]})) || { echo "daemon_overhead.sh: error: which model? see --help" >&2; exit 2; }
model=${models[0]} small=${models[1]:-${models[0]}}
export no_proxy=127.0.0.1,localhost
log=$(mktemp)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -f "$log"' EXIT

# start MODEL OPTION...: starts the daemon; sets `server`, `address`, and `ready_seconds`.
start() {
  local begin=$EPOCHREALTIME
  "$build/bin/mambad" --model "$1" --listen 127.0.0.1:0 --metrics 127.0.0.1:0 "${@:2}" >"$log" 2>&1 &
  server=$!
  until grep --quiet ' ready: ' "$log"; do
    kill -0 "$server" || { cat "$log" >&2; exit 1; }
    sleep 0.01
  done
  ready_seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')
  address=$(grep --only-matching --max-count=1 -E 'grpc [^ ,]+' "$log" | cut -d ' ' -f 2)
}
stop() { kill -TERM "$server"; wait "$server" || true; server=; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

cat "$small" >/dev/null 2>&1 || cat "$small"/* >/dev/null
ready=()
for ((i = 0; i < repeat; ++i)); do start "$small"; ready+=("$ready_seconds"); stop; done
echo "${small##*/}: ready after $(printf '%s\n' "${ready[@]}" | median) s"

bare=() served=()
for ((i = 0; i < repeat; ++i)); do
  bare+=("$("$build/bin/engine_bench" "$model" --threads 1 --sequences 16 --prompt 16 --tokens 128 --repeat 3 |
    sed -E 's/.*plain ([0-9.]+).*/\1/')")
  start "$model" --threads 1
  for run in warm counted; do
    speed=$("$build/bin/mambactl" --address "$address" --json bench --requests 16 --concurrency 16 --prompt-tokens 16 \
      --max-tokens 128 --temperature 0 --ignore-eos --speculation off |
      sed -E 's/.*"tokens_per_second":([0-9.]+).*/\1/')
  done
  served+=("$speed")
  stop
done
awk -v bare="$(printf '%s\n' "${bare[@]}" | median)" -v served="$(printf '%s\n' "${served[@]}" | median)" 'BEGIN {
  printf "16 streams: engine %.1f tokens/s, daemon %.1f tokens/s: overhead %.1f %%\n", bare, served, 100 * (bare / served - 1) }'

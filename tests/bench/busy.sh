#!/usr/bin/env bash
# tests/bench/busy.sh [--bench PROGRAM] [--before PROGRAM] [--neighbours "N..."] [--tokens N] [--repeat N]
#                     [--rival] MODEL...
#
# What other processes on the cores cost: engine_bench's plain decoding of one sequence while N neighbours, each a busy loop,
# share the machine; with the default threads and with one. Prints tokens a second, and the default's share of the better one:
#
#   --bench PROGRAM     default: build/bin/engine_bench
#   --before PROGRAM    another build of it, measured in turn with this one
#   --neighbours LIST   default: "0 1 4"
#   --tokens N          of each run: some tenths of a second's work, which the choice of threads takes. Default: 400
#   --repeat N          the best of so many runs counts. Default: 3
#   --rival             llama.cpp too, with the threads that it chooses itself, on models that are GGUF files which it reads;
#                       rival.sh builds it
#
# An otherwise idle machine is up to you.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

bench=$root/build/bin/engine_bench before='' neighbours='0 1 4' tokens=400 repeat=3 rival='' models=()
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --bench | --before | --neighbours | --tokens | --repeat)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    --rival) rival=$root/tests/bench/rival.sh ;;
    -*) usage 2 >&2 ;;
    *) models+=("$1") ;;
  esac
  shift
done
((${#models[@]})) || usage 2 >&2

loops=()
stop_loops() {
  ((${#loops[@]})) || return 0
  kill "${loops[@]}" 2>/dev/null || true
  wait "${loops[@]}" 2>/dev/null || true
  loops=()
}
trap stop_loops EXIT

# PROGRAM MODEL [OPTION...]: tokens a second, plain.
measure() {
  local program=$1 model=$2
  shift 2
  "$program" "$model" --sequences 1 --tokens "$tokens" --repeat "$repeat" "$@" 2>/dev/null |
    sed -n 's/.*plain \([0-9.]*\) tokens.*/\1/p' | tail -1
}

print_row() {  # NAME PROGRAM MODEL COUNT
  local all one
  all=$(measure "$2" "$3")
  one=$(measure "$2" "$3" --threads 1)
  awk -v name="$1" -v model="${3##*/}" -v count="$4" -v all="$all" -v one="$one" 'BEGIN {
    best = all > one ? all : one
    printf "%-16s %-8s %10d %10.1f %10.1f %9.0f %%\n", model, name, count, all, one, 100 * all / best
  }'
}

print_rival() {  # MODEL COUNT
  local speed=- threads='' why=''
  if [[ $1 != *.gguf ]]; then
    why='not a GGUF file'
  elif read -r speed threads < <("$rival" --plain --tokens "$tokens" --repeat "$repeat" "$1" 2>/dev/null); then
    speed=$(awk -v speed="$speed" 'BEGIN { printf "%.1f", speed }')
  else
    speed=- why='llama.cpp does not read it'
  fi
  printf '%-16s %-8s %10d %10s %10s   %s\n' "${1##*/}" rival "$2" "$speed" - "${why:-($threads threads)}"
}

[[ -z $rival ]] || "$rival" --plain
printf '%-16s %-8s %10s %10s %10s %11s\n' model build neighbours default '1 thread' 'of better'
for model in "${models[@]}"; do
  for count in $neighbours; do
    for ((i = 0; i < count; ++i)); do
      while :; do :; done &
      loops+=($!)
    done
    [[ -z $before ]] || print_row before "$before" "$model" "$count"
    print_row now "$bench" "$model" "$count"
    [[ -z $rival ]] || print_rival "$model" "$count"
    stop_loops
  done
done

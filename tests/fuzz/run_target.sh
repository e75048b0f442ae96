#!/usr/bin/env bash
# run_target.sh PROGRAM SECONDS [--keep] [LIBFUZZER-OPTION...]
#
# Runs the libFuzzer program PROGRAM (.../x_fuzz) over the seeds corpus/x, then for SECONDS on inputs of its own making, all
# from one fixed seed of randomness. Fails on the first fault, on an input that takes 10 s, or on memory beyond 1 GiB (256
# MiB in one allocation); the input is left beside PROGRAM as x-crash-*, x-timeout-* or x-oom-*.
#
#   --keep   afterwards adds to corpus/x those inputs, smallest first and of at most 4 KiB, that reach a branch which no
#            seed did: for long runs by hand, for example
#            tests/fuzz/run_target.sh build/tests/fuzz/clang/bin/gguf_fuzz 600 --keep -seed=7
set -euo pipefail

(($# >= 2)) || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2; }
program=$1 seconds=$2
shift 2
keep=
if [[ ${1:-} == --keep ]]; then
  keep=1
  shift
fi
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
name=$(basename "$program" _fuzz)
seeds=$here/corpus/$name
dictionary=$here/dictionaries/$name.dict
[[ -d $seeds && -f $dictionary ]] || { echo "$seeds and $dictionary expected" >&2; exit 2; }

# A new folder each time: what one run found must not make the next one slow, or different.
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
export ASAN_OPTIONS=detect_stack_use_after_return=1:${ASAN_OPTIONS:-} UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
"$program" -seed=1 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=16384 \
  -dict="$dictionary" -print_final_stats=1 -artifact_prefix="${program%_fuzz}-" "$@" "$found" "$seeds"
if [[ -n $keep ]]; then
  find "$found" -type f -size +4k -delete
  # Branches alone, not how often they are taken: a tenth of the files.
  "$program" -merge=1 -use_counters=0 "$seeds" "$found"
fi

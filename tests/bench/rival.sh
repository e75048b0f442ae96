#!/usr/bin/env bash
# tests/bench/rival.sh [--build FOLDER] [--threads N] [--repeat N] [--tokens N] [FILE.gguf...]
#
# Measures llama.cpp on this machine, on the same files and the same work as our own benchmark, and prints tokens a second:
#
#   plain      one sequence, one token a step
#   prompt     a prompt of 512 tokens
#   5 rows     five tokens a step, one of each of five sequences; "cost": time of such a step in plain steps
#   16 seq.    sixteen sequences together; "gain": tokens a second over plain
#
#   --build FOLDER  where llama.cpp is, or will be, built. Default: build/rival
#   --threads N     default: all cores
#   --repeat N      measures so often and keeps the best of each, which is what an idle machine gives. Default: 3
#   --tokens N      tokens generated a sequence and measurement. Default: 64
#   FILE.gguf       default: random bf16 files of the sizes Mamba-130M, Mamba2-130M and Llama-135M
#
# llama.cpp is built out of the source package llama-cpp-python of Python's package index, for this machine's processor;
# compiler, cmake, ninja-build, python3 and python3-venv must be installed. An idle machine is up to you.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
rival_package='llama-cpp-python==0.3.16'

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }
fail() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

build=$root/build/rival threads=$(nproc) repeat=3 tokens=64 files=()
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --build | --threads | --repeat | --tokens)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    -*) usage 2 >&2 ;;
    *) files+=("$1") ;;
  esac
  shift
done
[[ $threads$repeat$tokens =~ ^[0-9]+$ ]] || usage 2 >&2
mkdir -p "$build"
build=$(realpath "$build")
bench=$build/bin/llama-batched-bench

make_venv() {
  [[ -f $build/venv/installed ]] && return
  python3 -m venv --clear "$build/venv"
  "$build/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: numpy gguf
  touch "$build/venv/installed"
}

build_rival() {
  local source=$build/source
  echo "building llama.cpp in $build"
  mkdir -p "$source"
  make_venv
  "$build/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$source" \
    "$rival_package"
  tar --extract --gzip --strip-components=1 --directory "$source" --file "$source"/*.tar.gz
  cmake -S "$source/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TOOLS=ON >"$build/configure.log" || fail "configuring llama.cpp failed: $build/configure.log"
  cmake --build "$build" --target llama-batched-bench llama-bench >"$build/build.log" ||
    fail "building llama.cpp failed: $build/build.log"
}

# measure FILE PROMPT SEQUENCES: prints, for each of the comma-separated numbers of sequences, a line
# "SEQUENCES prompt-tokens/s generated-tokens/s", best of all repeats.
measure() {
  local file=$1 prompt=$2 sequences=$3 context=$((${3##*,} * ($2 + tokens))) run
  ((context >= 512)) || context=512
  for ((run = 0; run < repeat; ++run)); do
    "$bench" -m "$file" -t "$threads" -tb "$threads" -c "$context" -b 2048 -ub 512 -npp "$prompt" -ntg "$tokens" \
      -npl "$sequences" --output-format jsonl 2>"$build/bench.log" || fail "$file: $(tail -3 "$build/bench.log")"
  done | python3 -c '
import json, sys
best = {}
for line in sys.stdin:
    if line.startswith("{"):
        run = json.loads(line)
        prompt, generated = best.get(run["pl"], (0, 0))
        best[run["pl"]] = max(prompt, run["speed_pp"]), max(generated, run["speed_tg"])
for sequences, speeds in sorted(best.items()):
    print(sequences, *speeds)
'
}

[[ -x $bench ]] || build_rival
if ((${#files[@]} == 0)); then
  make_venv
  mapfile -t files < <("$build/venv/bin/python" -B "$root/tests/bench/make_gguf.py" "$build/models")
  ((${#files[@]} == 3)) || fail "the model files could not be written"
fi

flags=$(grep --max-count=1 '^flags' /proc/cpuinfo || true)
sets=
for name in avx2 avx512f avx512_bf16 amx_bf16; do [[ " $flags " == *" $name "* ]] && sets+=" $name"; done
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
echo "llama.cpp ($rival_package), $threads threads, best of $repeat; ${model:-unknown processor}:${sets:- none of AVX2, AVX-512}"
printf '%-28s %10s %10s %10s %6s %10s %6s\n' 'tokens a second' plain prompt '5 rows' cost '16 seq.' gain
for file in "${files[@]}"; do
  [[ -f $file ]] || fail "$file does not exist"
  prompt_speed=$(measure "$file" 512 1 | cut -d ' ' -f 2)
  speeds=$(measure "$file" 16 1,5,16)
  awk -v name="${file##*/}" -v prompt="$prompt_speed" '
    { speed[$1] = $3 }
    END {
      if (!(speed[1] > 0 && speed[5] > 0 && speed[16] > 0)) exit 1
      printf "%-28s %10.1f %10.1f %10.1f %6.2f %10.1f %6.2f\n", name, speed[1], prompt, speed[5],
             5 * speed[1] / speed[5], speed[16], speed[16] / speed[1]
    }' <<<"$speeds" || fail "$file: no measurement came out; see $build/bench.log"
done

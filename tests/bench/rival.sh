#!/usr/bin/env bash
# tests/bench/rival.sh [--set native|avx2] [--build FOLDER] [--bench PROGRAM] [--threads N] [--repeat N] [--tokens N]
#                      [FILE.gguf...]
# tests/bench/rival.sh --plain [--set native|avx2] [--build FOLDER] [--threads N] [--repeat N] [--tokens N] [FILE.gguf...]
#
# Measures llama.cpp and our own model_bench on this machine, in turn on the same files and the same work, and prints tokens a
# second and our multiples of the rival's:
#
#   plain      one sequence, one token a step
#   prompt     a prompt of 512 tokens
#   5 rows     five tokens a step, one of each of five sequences; "cost": time of such a step in plain steps
#   16 seq.    sixteen sequences together; "gain": tokens a second over plain
#
# With --plain llama.cpp alone, and of each file one line: tokens a second of one sequence, one token a step, and the threads,
# as many as llama.cpp itself chooses unless --threads says. Without a file it is only built.
#
#   --set SET       native: what the processor has (default); avx2: both sides keep to AVX2
#   --build FOLDER  where llama.cpp is, or will be, built. Default: build/rival, build/rival-avx2
#   --bench PROGRAM our benchmark. Default: build/bin/model_bench
#   --threads N     default: all cores
#   --repeat N      measures so often and keeps the best of each, which is what an idle machine gives. Default: 3
#   --tokens N      tokens generated a sequence and measurement. Default: 64
#   FILE.gguf       default: random bf16 files of the sizes Mamba-130M, Mamba2-130M and Llama-135M
#
# Ours comes twice where the processor multiplies bf16 pairs: exact (float32 activations) and with activations rounded to bf16,
# the default of the daemon there, and what the rival does. Its prompt is computed in chunks of 512 tokens, as ours.
#
# llama.cpp is built out of the source package llama-cpp-python of Python's package index, for this machine's processor;
# compiler, cmake, ninja-build, python3 and python3-venv must be installed. An idle machine is up to you.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
rival_package='llama-cpp-python==0.3.16'

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }
fail() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

set=native build='' bench='' threads='' repeat=3 tokens=64 plain_only='' files=()
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --set | --build | --bench | --threads | --repeat | --tokens)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    --plain) plain_only=yes ;;
    -*) usage 2 >&2 ;;
    *) files+=("$1") ;;
  esac
  shift
done
[[ -n $plain_only || -n $threads ]] || threads=$(nproc)
[[ $threads$repeat$tokens =~ ^[0-9]+$ ]] || usage 2 >&2
rival_threads=(${threads:+-t "$threads" -tb "$threads"})
case $set in
  native) instructions=(-DGGML_NATIVE=ON) ;;
  avx2) instructions=(-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON) ;;
  *) usage 2 >&2 ;;
esac
[[ -n $build ]] || build=$root/build/rival$([[ $set == native ]] || echo "-$set")
[[ -n $bench ]] || bench=$root/build/bin/model_bench
[[ -n $plain_only || -x $bench ]] || fail "$bench is not built"
mkdir -p "$build"
build=$(realpath "$build")
rival=$build/bin/llama-batched-bench

make_venv() {
  [[ -f $build/venv/installed ]] && return
  python3 -m venv --clear "$build/venv"
  "$build/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: numpy gguf
  touch "$build/venv/installed"
}

build_rival() {
  local source=$build/source
  echo "building llama.cpp in $build" >&2
  mkdir -p "$source"
  make_venv
  "$build/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$source" \
    "$rival_package"
  tar --extract --gzip --strip-components=1 --directory "$source" --file "$source"/*.tar.gz
  cmake -S "$source/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${instructions[@]}" \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_TOOLS=ON >"$build/configure.log" || fail "configuring llama.cpp failed: $build/configure.log"
  cmake --build "$build" --target llama-batched-bench llama-bench >"$build/build.log" ||
    fail "building llama.cpp failed: $build/build.log"
}

# rival_speed FILE PROMPT SEQUENCES: prints, for each of the comma-separated numbers of sequences, a line
# "SEQUENCES prompt-tokens/s generated-tokens/s threads", best of all repeats.
rival_speed() {
  local file=$1 prompt=$2 sequences=$3 context=$((${3##*,} * ($2 + tokens))) run
  ((context >= 512)) || context=512
  for ((run = 0; run < repeat; ++run)); do
    "$rival" -m "$file" "${rival_threads[@]}" -c "$context" -b 2048 -ub 512 -npp "$prompt" -ntg "$tokens" \
      -npl "$sequences" --output-format jsonl 2>"$build/bench.log" || fail "$file: $(tail -3 "$build/bench.log")"
  done | python3 -c '
import json, sys
best = {}
for line in sys.stdin:
    if line.startswith("{"):
        run = json.loads(line)
        prompt, generated, _ = best.get(run["pl"], (0, 0, 0))
        best[run["pl"]] = max(prompt, run["speed_pp"]), max(generated, run["speed_tg"]), run["n_threads"]
for sequences, speeds in sorted(best.items()):
    print(sequences, *speeds)
'
}

# our_speed FILE OPTION...: prints "plain prompt 5-rows-cost 16-sequences share-of-probe" of model_bench.
our_speed() {
  "$bench" "$1" --threads "$threads" --set "$([[ $set == avx2 ]] && echo avx2 || echo best)" "${@:2}" | sed -n -E \
    's,.*\| +([0-9.]+) tok/s +([0-9.]+) % of probe.*5 rows +([0-9.]+) x.*sequences +([0-9.]+) tok/s.*prompt +([0-9.]+) tok/s.*,\1 \5 \3 \4 \2,p'
}

# row NAME PLAIN PROMPT COST SIXTEEN SHARE: one line of the table.
row() { printf '%-30s %8.1f %8.1f %6.2f %8.1f %6.2f %8s\n' "$1" "$2" "$3" "$4" "$5" "$(awk "BEGIN { print $5 / $2 }")" "${6:-}"; }

[[ -x $rival ]] || build_rival
if [[ -n $plain_only ]]; then
  for file in "${files[@]}"; do rival_speed "$file" 16 1 | cut -d ' ' -f 3,4; done
  exit
fi
if ((${#files[@]} == 0)); then
  make_venv
  mapfile -t files < <("$build/venv/bin/python" -B "$root/tests/bench/make_gguf.py" "$root/build/rival/models")
  ((${#files[@]} == 3)) || fail "the model files could not be written"
fi

flags=$(grep --max-count=1 '^flags' /proc/cpuinfo || true)
has=
for name in avx2 avx512f avx512_bf16 amx_bf16; do [[ " $flags " == *" $name "* ]] && has+=" $name"; done
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
echo "$threads threads, instruction set: $set; ${model:-unknown processor}:${has:- none of AVX2, AVX-512}"
echo "llama.cpp ($rival_package): best of $repeat; ours: medians"
printf '%-30s %8s %8s %6s %8s %6s %8s\n' 'tokens a second' plain prompt cost5 '16 seq.' gain probe
for file in "${files[@]}"; do
  [[ -f $file ]] || fail "$file does not exist"
  name=${file##*/} name=${name%.gguf}
  prompt=$(rival_speed "$file" 512 1 | cut -d ' ' -f 2)
  read -r plain five sixteen < <(rival_speed "$file" 16 1,5,16 | awk '{ printf "%s ", $3 } END { print "" }')
  [[ -n $sixteen ]] || fail "$file: no measurement came out; see $build/bench.log"
  row "$name, rival" "$plain" "$prompt" "$(awk "BEGIN { print 5 * $plain / $five }")" "$sixteen"
  for mode in exact bf16; do
    [[ $mode == exact || ($set == native && $has == *avx512_bf16*) ]] || continue
    read -r our_plain our_prompt our_cost our_sixteen share < <(
      our_speed "$file" --activations "$([[ $mode == exact ]] && echo float32 || echo auto)")
    row "$name, $mode" "$our_plain" "$our_prompt" "$our_cost" "$our_sixteen" "$share %"
    awk -v a="$our_plain" -v b="$plain" -v c="$our_prompt" -v d="$prompt" -v e="$our_sixteen" -v f="$sixteen" \
      'BEGIN { printf "%-30s %7.2fx %7.2fx %6s %7.2fx\n", "", a / b, c / d, "", e / f }'
  done
done

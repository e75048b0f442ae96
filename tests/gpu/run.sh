#!/bin/sh
# Checks on this machine's GPU what was built for it: the backend that serves models, with engines and the daemon on top, and the
# trainer's kernels and models.
#
#   tests/gpu/run.sh [OPTIONS] [FOLDER]    FOLDER: where the built programs lie (default: build/bin beside this checkout's root)
#
#   --only NAME      one of: backend, engine, daemon, sanitizer, training, times; may be given several times
#   --no-sanitizer   without compute-sanitizer, which takes as long as the rest
#   --limit N        seconds that a check may take (default: 900); one that takes longer has failed
#   --device NAME    of the backend: cuda (default), cuda:N
#
# Exit status: 0 when everything agrees (kernels with double, answers bit for bit), else 1, after all checks have run; a table of
# them comes last. What was not built is said and left out. The trainer's programs need LibTorch's libraries on LD_LIBRARY_PATH. compute-sanitizer, where it is
# installed, looks for accesses out of bounds, memory that was never written and races in shared memory. One check runs at a time: a
# GPU that programs share goes from one to another in slices, in which small kernels wait. For a GPU host that builds nothing,
# tests/gpu/portable.sh makes a folder.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
only='' sanitizer=yes device=cuda limit=900 folder=$root/build/bin
while [ $# -gt 0 ]; do
  case $1 in
    --only) only="$only $2" && shift 2 ;;
    --no-sanitizer) sanitizer= && shift ;;
    --device) device=$2 && shift 2 ;;
    --limit) limit=$2 && shift 2 ;;
    -*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
    *) folder=$1 && shift ;;
  esac
done
if [ -n "$sanitizer" ] && ! command -v compute-sanitizer >/dev/null 2>&1; then
  echo "compute-sanitizer is not installed: memory accesses were not checked"
  sanitizer=
fi
wanted() { [ -z "$only" ] || case "$only " in *" $1 "*) ;; *) false ;; esac; }

failed='' table=''
newline='
'
# What a check came to, and its seconds, for the table.
note() {
  table="$table$newline$(printf '%-6s %5d s  %s' "$1" "$(($(date +%s) - $2))" "$3")"
  [ "$1" = right ] || failed=yes
}
# A program and its arguments.
check() {
  echo "== $*"
  begin=$(date +%s) result=right
  timeout "$limit" "$@" || result=WRONG
  note $result "$begin" "$(echo "$*" | sed "s|$folder/||g")"
}
# A program of the folder, and whether it is there.
built() {
  [ -x "$folder/$1" ] || { echo "not built: $1"; false; }
}
if wanted backend; then
  export MAMBAD_TEST_BACKEND="$device"
  for program in backend_test backend_mixer_test; do
    ! built $program || check "$folder/$program" --gtest_brief=1
  done
  ! built linear_check || check "$folder/linear_check" --no-times
  unset MAMBAD_TEST_BACKEND
fi

if wanted engine; then
  export MAMBAD_TEST_BACKEND="$device"
  for program in model_test exactness_test speculation_test real_models_test; do
    ! built $program || check "$folder/$program" --gtest_brief=1
  done
  unset MAMBAD_TEST_BACKEND
fi

# The story models, served: what is answered does not depend on speculation.
serve_stories() {
  models=${MAMBAD_TEST_MODELS:-$root/deploy/models}/stories
  work=$(mktemp -d)
  "$folder/mambad" --device "$device" --model "$models/target" --draft "$models/draft" --listen 127.0.0.1:0 --metrics "" \
    >"$work/ready" 2>"$work/log" &
  daemon=$!
  status=0
  for _ in $(seq 300); do
    grep -q grpc "$work/ready" && break
    kill -0 $daemon 2>/dev/null || break
    sleep 0.2
  done
  grep "device:" "$work/log" || true
  address=$(sed -n 's/.*grpc \([^ ]*\).*/\1/p' "$work/ready")
  for temperature in 0 0.8; do
    for speculation in off draft-model prompt-lookup auto; do
      "$folder/mambactl" --address "$address" generate --prompt "Once upon a time" --max-tokens 200 --temperature $temperature \
        --seed 7 --speculation $speculation >"$work/$temperature-$speculation" || status=1
      cmp "$work/$temperature-off" "$work/$temperature-$speculation" || status=1
    done
    [ -s "$work/$temperature-off" ] || status=1
  done
  head -c 400 "$work/0-off"
  echo
  kill $daemon 2>/dev/null || status=1
  wait $daemon || status=1
  [ $status = 0 ] || cat "$work/log"
  rm -r "$work"
  return $status
}
if wanted daemon && built mambad && built mambactl; then
  echo "== stories through mambactl"
  begin=$(date +%s) result=right
  serve_stories || result=WRONG
  note $result "$begin" "stories through mambactl"
fi

# Streams, cancels and the end, by a client in Python. The messages' descriptions lie in a portable folder; elsewhere they are made.
if wanted daemon && built mambad; then
  descriptors=$folder/descriptors made=
  if [ ! -r "$descriptors" ]; then
    descriptors=$(mktemp) && made=$descriptors
    protoc --include_imports --descriptor_set_out="$descriptors" -I "$root/proto" mambad/v1/generation.proto
  fi
  if python3 -c 'import grpc, google.protobuf' 2>/dev/null; then
    check python3 -B "$(dirname "$0")/daemon_check.py" --mambad "$folder/mambad" --device "$device" \
      --models "${MAMBAD_TEST_MODELS:-$root/deploy/models}/stories" --descriptors "$descriptors"
  else
    echo "Python's grpcio and protobuf are not installed: streams were not checked"
  fi
  [ -z "$made" ] || rm "$made"
fi

# What an operation does to memory does not depend on how often it is tested: a part of the tests, each of its kinds.
sanitize() {
  program=$1
  shift
  built "$program" || return 0
  for tool in "memcheck --report-api-errors no" racecheck initcheck; do
    # shellcheck disable=SC2086  # words
    check compute-sanitizer --tool $tool --error-exitcode 9 "$folder/$program" "$@"
  done
}
if wanted sanitizer && [ -n "$sanitizer" ]; then
  export MAMBAD_TEST_BACKEND="$device"
  sanitize linear_check --small --no-times
  sanitize backend_test --gtest_brief=1 \
    --gtest_filter='-*Distribution*:*CoupledDrafts*:*TheFirstToArrive*:*RowsDoNotKnow*:*Invariant*:*Golden*:*MemoryTest*'
  sanitize backend_mixer_test --gtest_brief=1 --gtest_filter='*AgreesWithDoublePrecision*:*OneHead*'
  unset MAMBAD_TEST_BACKEND
  ! built training_kernels_check ||
    check compute-sanitizer --tool memcheck --error-exitcode 9 "$folder/training_kernels_check" --no-times
fi

if wanted training && built training_kernels_check; then
  check "$folder/training_kernels_check"
  if built trainer_cuda_model_test; then
    check "$folder/trainer_cuda_model_test"
    for options in "" "--trained all" "--trained all --recompute" "--mixer mamba"; do
      # shellcheck disable=SC2086  # options are words
      check "$folder/distillation_bench" --device cuda $options
    done
  fi
fi
if wanted times; then
  ! built linear_check || check "$folder/linear_check" --times
  ! built kernel_times || check "$folder/kernel_times"
  stories=${MAMBAD_TEST_MODELS:-$root/deploy/models}/stories
  for sequences in 1 8 64; do
    ! built engine_bench || check "$folder/engine_bench" "$stories/target" --draft "$stories/draft" --device "$device" \
      --sequences $sequences --tokens 200 --repeat 3
  done
fi

echo "$table"
[ -z "$failed" ]

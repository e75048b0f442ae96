#!/bin/sh
# Checks the CUDA kernels, and the backend and the trainer's models where they were built, on this machine's GPU, and prints
# times.
#
#   tests/gpu/run.sh [FOLDER]    FOLDER: where the built programs lie (default: build/bin beside this checkout's root)
#
# Exit status: 0 when every kernel, operation and model agrees with double, else 1, after all checks have run. The trainer's
# programs need LibTorch's libraries on LD_LIBRARY_PATH. compute-sanitizer, where it is installed, looks for accesses out of
# bounds as well. For a GPU host that builds nothing, tests/gpu/portable.sh makes a folder.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$root/build/bin}
failed=
check() {
  echo "== ${*##*/}"
  "$@" || failed="$failed
  $*"
}

check "$folder/training_kernels_check"
if command -v compute-sanitizer >/dev/null 2>&1; then
  check compute-sanitizer --tool memcheck --error-exitcode 9 "$folder/training_kernels_check" --no-times
else
  echo "compute-sanitizer is not installed: memory accesses were not checked"
fi
# What every backend is held to, on this machine's GPU; skipped, with the reason, where its module is not.
for program in backend_test backend_mixer_test; do
  [ ! -x "$folder/$program" ] || check env MAMBAD_TEST_BACKEND=cuda "$folder/$program"
done
if [ -x "$folder/trainer_cuda_model_test" ]; then
  check "$folder/trainer_cuda_model_test"
  for options in "" "--trained all" "--trained all --recompute" "--mixer mamba"; do
    # shellcheck disable=SC2086  # options are words
    check "$folder/distillation_bench" --device cuda $options
  done
else
  echo "the trainer was not built: its models were not checked"
fi
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }

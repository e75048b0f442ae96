#!/bin/sh
# Checks the CUDA kernels on this machine's GPU and prints their times.
#
#   tests/gpu/run.sh [FOLDER]    FOLDER: where the built programs lie (default: build/bin beside this checkout's root)
#
# Exit status: 0 when every kernel agrees with double, else not 0. compute-sanitizer, where it is installed and can
# reach the device, looks for accesses out of bounds as well.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$root/build/bin}
"$folder/training_kernels_check"
if command -v compute-sanitizer >/dev/null 2>&1; then
  compute-sanitizer --tool memcheck --error-exitcode 9 "$folder/training_kernels_check" --no-times
else
  echo "compute-sanitizer is not installed: memory accesses were not checked"
fi

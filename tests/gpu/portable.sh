#!/usr/bin/env bash
# Gathers what tests/gpu/run.sh runs into one folder that a GPU host without build tools and without this project's packages
# can use: the programs, stripped, the libraries that such a host lacks, the models in the box, reference values where
# MAMBAD_SHARED_DATA has some, and run.sh itself.
#
#   tests/gpu/portable.sh [--serving] FOLDER [BUILD]    BUILD: a build folder with CUDA (default: build)
#
# Taken along: what was built, and the check of the training kernels, which is built for it; with --serving nothing of training.
# Not taken along: the driver, the C library, and LibTorch with its CUDA libraries, which the host's own installation of the same
# PyTorch release brings. There:
#
#   FOLDER/run.sh [OPTIONS of tests/gpu/run.sh]
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
training=yes
if [[ ${1:-} == --serving ]]; then training='' && shift; fi
(($# >= 1)) || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
folder=$1 build=${2:-$root/build}

wanted=(libmambad_cuda.so linear_check kernel_times engine_bench backend_test backend_mixer_test exactness_test model_test real_models_test
  speculation_test mambad mambactl libmambad_sentencepiece.so)
if [[ $training ]]; then
  cmake --build "$build" --target training_kernels_check
  wanted+=(training_kernels_check trainer_cuda_model_test distillation_bench)
fi
programs=()
for program in "${wanted[@]}"; do
  [[ ! -x $build/bin/$program ]] || programs+=("$program")
done

mkdir -p "$folder/programs" "$folder/libraries"
for program in "${programs[@]}"; do
  strip -o "$folder/programs/$program" "$build/bin/$program"
  # Of each line "NAME => PATH (ADDRESS)" the path, but for what the host has.
  ldd "$build/bin/$program" | awk '$2 == "=>" && $3 ~ "^/" { print $3 }' |
    grep -vE '/(torch|nvidia|cuda[^/]*)/|/lib(c|m|dl|rt|pthread|util|stdc\+\+|gcc_s)\.so' |
    while read -r library; do cp -uL "$library" "$folder/libraries/"; done || true
done
rm -rf "$folder/models"
cp -r "$root/deploy/models" "$folder/models"
if [[ -d ${MAMBAD_SHARED_DATA:-}/golden ]]; then
  rm -rf "$folder/data" && mkdir "$folder/data" && cp -rL "$MAMBAD_SHARED_DATA/golden" "$folder/data/golden"
fi
cp "$root/tests/gpu/run.sh" "$folder/check.sh"
cp "$root/tests/gpu/daemon_check.py" "$folder/daemon_check.py"
protoc --include_imports --descriptor_set_out="$folder/programs/descriptors" -I "$root/proto" mambad/v1/generation.proto
cat >"$folder/run.sh" <<'END'
#!/bin/sh
# Runs check.sh on this folder's programs, with the libraries of this folder and of the host's PyTorch, where it has one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
found=$here/libraries
torch=$(python3 -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("torch").origin))' 2>/dev/null) ||
  torch=
for libraries in ${torch:+"$torch/lib" "$torch"/../nvidia/*/lib} /usr/local/cuda/lib64; do
  [ ! -d "$libraries" ] || found=$found:$libraries
done
export LD_LIBRARY_PATH="$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" MAMBAD_TEST_MODELS="$here/models"
[ ! -d "$here/data" ] || export MAMBAD_SHARED_DATA="$here/data"
exec sh "$here/check.sh" "$@" "$here/programs"
END
chmod +x "$folder/run.sh" "$folder/check.sh"
du -sh "$folder"

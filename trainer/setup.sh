#!/usr/bin/env bash
# trainer/setup.sh [--no-install] [--python PROGRAM]
#
# Fetches what the trainer is built of, on a Debian 12, as root or with sudo: packages, and LibTorch with the libraries that it
# wants, out of Python's package index (some 530 MB to fetch, 1.5 GB on disk). May be run again at any time: what is done is
# not done twice. Then:
#
#   cmake --preset release && cmake --build build --target trainer mambad-models
#
#   --no-install       trust that the packages are there
#   --python PROGRAM   a Python with pip. Default: python3
#
# LibTorch goes into build/torch.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=../deploy/setup.sh
. "$root/deploy/setup.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

# Beside the daemon's, which are in deploy/setup.sh.
trainer_packages=(libgloo-dev zlib1g-dev liblzma-dev gnuplot-nox python3)

# LibTorch is in the first one. Its CPU library wants the next two where no CUDA toolkit is, its CUDA library, which is linked
# where a CUDA compiler is found, the other three; none of them needs a GPU.
torch_packages=('torch==2.11.0' nvidia-cuda-runtime nvidia-cuda-cupti)
cuda_packages=('nvidia-cusparselt-cu13==0.8.0' 'nvidia-nvshmem-cu13==3.4.5' nvidia-cufile)

install=1 python=python3
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --no-install) install='' ;;
    --python)
      (($# > 1)) || usage 2 >&2
      python=$2
      shift ;;
    *) usage 2 >&2 ;;
  esac
  shift
done

torch=$root/build/torch
# Where CMake finds a CUDA compiler, too.
if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc || -n ${CUDACXX:-} ]]; then
  torch_packages+=("${cuda_packages[@]}")
fi

if [[ -n $install ]]; then
  "$python" -m pip --version >/dev/null 2>&1 || trainer_packages+=(python3-pip)
  install_packages "${daemon_packages[@]}" "${trainer_packages[@]}"
fi
wanted="${torch_packages[*]}"
if [[ $(cat "$torch/installed" 2>/dev/null) != "$wanted" ]]; then
  "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip: install python3-pip, or give --python"
  echo "fetching $wanted"
  partial=$torch.partial
  rm -rf "$partial"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary :all: \
    --retries 1 --timeout 30 --target "$partial" "${torch_packages[@]}" ||
    fail "LibTorch could not be fetched: is a Python package index within reach?"
  echo "$wanted" >"$partial/installed"
  rm -rf "$torch"
  mv "$partial" "$torch"
fi
echo "LibTorch: $torch"

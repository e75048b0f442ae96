#!/usr/bin/env bash
# A training run on all GPUs of this machine, or of several machines that are each started with this script:
#
#   deploy/launch/torchrun.sh distill --config distill.yaml
#   MACHINES=4 FIRST=node1 deploy/launch/torchrun.sh distill --config distill.yaml      on each of four, node1 among them
#
# torchrun (of a Python with PyTorch) starts a process on each GPU and starts all of them again, from the newest state, when
# one is lost. `output`, data and models are on a file system that the machines share.
set -euo pipefail

(($#)) || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
machines=${MACHINES:-1}
where=(--standalone)
if ((machines > 1)); then
  where=(--rdzv-backend c10d --rdzv-id "${RUN:-mambad}" --rdzv-endpoint "${FIRST:?is the first machine}:${PORT:-29500}")
fi
# The trainer divides the threads of the CPU itself.
exec torchrun --no-python --nnodes "$machines" --nproc-per-node "${GPUS:-gpu}" --max-restarts "${RESTARTS:-3}" \
  "${where[@]}" "${TRAINER:-trainer}" "$@"

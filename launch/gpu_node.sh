#!/usr/bin/env bash
# Run on one machine with any number of GPUs, all driven by one process; restart it until the run ends. SIGTERM to this
# script ends the run with a checkpoint.
#   launch/gpu_node.sh [--print] --config FILE.yaml [--mesh.fsdp 8 …]
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
print_asked "$@" && shift
train=("${PYTHON:-python}" -m cann_jax.train "$@")
if [[ -n "${PRINT:-}" ]]; then run "${train[@]}"; else keep_running forwarded "${train[@]}"; fi

#!/usr/bin/env bash
# Start a run on GKE: fill in launch/gke_jobset.yaml and apply it with kubectl.
#   NAME=run IMAGE=REGISTRY/cann_jax HOSTS=4 CHIPS=4 ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 \
#     launch/gke.sh [--print] --config FILE.yaml [--mesh.fsdp 16 …]
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
[[ "${1:-}" == --print ]] && PRINT=1 && shift
: "${NAME:?set NAME}" "${IMAGE:?set IMAGE}" "${HOSTS:?set HOSTS, the number of machines in the slice}"
: "${CHIPS:?set CHIPS, the number of TPU chips per machine}" "${ACCELERATOR:?set ACCELERATOR}" "${TOPOLOGY:?set TOPOLOGY}"
RESTARTS=${RESTARTS:-100}
ARGUMENTS=""
for argument in "$@"; do ARGUMENTS+="${ARGUMENTS:+, }\"${argument//\"/\\\"}\""; done
manifest=$(<"$here/gke_jobset.yaml")
for name in NAME IMAGE HOSTS CHIPS ACCELERATOR TOPOLOGY RESTARTS ARGUMENTS; do
  manifest=${manifest//"\${$name}"/"${!name}"}
done
if [[ -n "${PRINT:-}" ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi

#!/usr/bin/env bash
# Start a run on GKE: fill in launch/gke_jobset.yaml and apply it with kubectl.
#   NAME=run IMAGE=REGISTRY/cann_jax HOSTS=4 CHIPS=4 ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 \
#     launch/gke.sh [--print] --config FILE.yaml [--mesh.fsdp 16 …]
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
print_asked "$@" && shift
: "${NAME:?set NAME}" "${IMAGE:?set IMAGE}" "${HOSTS:?set HOSTS, the number of machines in the slice}"
: "${CHIPS:?set CHIPS, the number of TPU chips per machine}" "${ACCELERATOR:?set ACCELERATOR}" "${TOPOLOGY:?set TOPOLOGY}"
RESTARTS=${RESTARTS:-100}
for name in HOSTS CHIPS RESTARTS; do
  [[ "${!name}" =~ ^[0-9]+$ ]] || { fault "$name is '${!name}'; set it to a number"; exit 2; }
done

# quoted TEXT: it as a string of YAML, in one line: Unicode's line ends too would be folded to spaces.
quoted() {
  local text=$1 code escape character
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  for code in {1..31} 127; do
    printf -v escape '\\x%02x' "$code"
    printf -v character '%b' "$escape"
    text=${text//"$character"/"$escape"}
  done
  text=${text//$'\xc2\x85'/\\x85}
  text=${text//$'\xe2\x80\xa8'/\\u2028}
  text=${text//$'\xe2\x80\xa9'/\\u2029}
  text=${text//$'\xef\xbb\xbf'/\\ufeff}
  printf '"%s"' "$text"
}

ARGUMENTS=""
# Kubernetes puts variables in the place of $(NAME), and one $ in that of two.
for argument in "$@"; do ARGUMENTS+=${ARGUMENTS:+, }$(quoted "${argument//\$/\$\$}"); done
for name in NAME IMAGE ACCELERATOR TOPOLOGY; do printf -v "$name" '%s' "$(quoted "${!name}")"; done
manifest=$(<"$here/gke_jobset.yaml")
for name in NAME IMAGE HOSTS CHIPS ACCELERATOR TOPOLOGY RESTARTS ARGUMENTS; do
  manifest=${manifest//"\${$name}"/"${!name}"}
done
if [[ -n "${PRINT:-}" ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi

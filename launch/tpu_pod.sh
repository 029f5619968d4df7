#!/usr/bin/env bash
# Run on a TPU slice: create or reuse it, install the code, run on all workers, resume after preemption.
#   NAME=pod ZONE=us-west4-a TYPE=v5litepod-16 launch/tpu_pod.sh [--print] run --config FILE.yaml [--mesh.fsdp 16 …]
#   NAME=pod ZONE=us-west4-a launch/tpu_pod.sh [--print] logs | delete
# TYPE is the cloud's name, which counts cores on v5p (v5p-128 is 64 chips). QUEUED=1 requests a queued resource,
# SPOT=1 a spot machine. run_dir must be a bucket (gs://…) that all workers can write; FILE.yaml and the files that it
# names must be under configs/, which is copied with the code.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
if [[ "${1:-}" == --print ]]; then export PRINT=1; shift; fi
action=${1:-}
shift || true
: "${NAME:?set NAME, the name of the machine}" "${ZONE:?set ZONE}"
VERSION=${VERSION:-tpu-ubuntu2204-base}
REMOTE=${REMOTE:-cann_jax}
SOURCES=(cann_jax tools configs setup.py pyproject.toml constraints.txt README.md)
tpu=(gcloud compute tpus tpu-vm)
place=("$NAME" --zone "$ZONE")

on_all() { run "${tpu[@]}" ssh "${place[@]}" --worker all --command "$1"; }

ready() { [[ "$("${tpu[@]}" describe "${place[@]}" --format 'value(state)' 2>/dev/null)" == READY ]]; }

create() {
  local spot=()
  [[ -n "${SPOT:-}" ]] && spot=(--spot)
  if [[ -n "${QUEUED:-}" ]]; then
    run gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE" \
      --accelerator-type "${TYPE:?set TYPE}" --runtime-version "$VERSION" "${spot[@]}"
  else
    run "${tpu[@]}" create "${place[@]}" --accelerator-type "${TYPE:?set TYPE}" --version "$VERSION" "${spot[@]}"
  fi
}

remove() {
  if [[ -n "${QUEUED:-}" ]]; then
    run gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
  else
    run "${tpu[@]}" delete "${place[@]}" --quiet
  fi
}

# A preempted machine stays listed and must be deleted before another can be created under its name.
ensure() {
  if [[ -n "${PRINT:-}" ]]; then create; elif ready; then say "$NAME is there"; else
    remove 2>/dev/null
    create || return 1
    until ready; do say "waiting for $NAME"; sleep "${POLL_SECONDS:-20}"; done
  fi
  # Copy into an existing folder: otherwise scp creates it the first time, and a second level inside it the next time.
  on_all "mkdir -p $REMOTE" || return 1
  run "${tpu[@]}" scp --recurse "${SOURCES[@]/#/$here/../}" "$NAME:$REMOTE" --zone "$ZONE" --worker all || return 1
  on_all "${INSTALL:-cd $REMOTE && pip install -q -e '.[tpu]'}"
}

once() {
  ensure || return 75
  # On standard error, where keep_running looks for the last error.
  on_all "cd $REMOTE && CANN_JAX_DISTRIBUTED=auto ${PYTHON:-python3} -m cann_jax.train $(printf '%q ' "$@") 2>&1 | tee -a run.log >&2; exit \${PIPESTATUS[0]}"
}

case $action in
  run) if [[ -n "${PRINT:-}" ]]; then once "$@"; else keep_running once "$@"; fi ;;
  logs) on_all "tail -n 100 -f $REMOTE/run.log" ;;
  delete) remove ;;
  *) say "usage: launch/tpu_pod.sh [--print] run|logs|delete …"; exit 2 ;;
esac

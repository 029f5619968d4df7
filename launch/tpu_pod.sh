#!/usr/bin/env bash
# Run on a TPU slice: create or reuse it, install the code, run on all workers, resume after preemption.
#   NAME=pod ZONE=us-west4-a TYPE=v5litepod-16 launch/tpu_pod.sh [--print] run --config FILE.yaml [--mesh.fsdp 16 …]
#   NAME=pod ZONE=us-west4-a launch/tpu_pod.sh [--print] logs | stop | delete
# TYPE is the cloud's name, which counts cores on v5p (v5p-128 is 64 chips). QUEUED=1 requests a queued resource,
# SPOT=1 a spot machine. run_dir must be a bucket (gs://…) that all workers can write; FILE.yaml and the files that it
# names must be under configs/, which is copied with the code. stop has the run save a checkpoint and end; end this script
# first where it runs, which starts a stopped run again.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/lib.sh"
print_asked "$@" && shift
action=${1:-}
shift || true
: "${NAME:?set NAME, the name of the machine}" "${ZONE:?set ZONE}"
VERSION=${VERSION:-tpu-ubuntu2204-base}
REMOTE=${REMOTE:-cann_jax}
SOURCES=(cann_jax tools configs setup.py pyproject.toml constraints.txt README.md)
tpu=(gcloud compute tpus tpu-vm)
place=("$NAME" --zone "$ZONE")

on_all() { run "${tpu[@]}" ssh "${place[@]}" --worker all --command "$1"; }

# read_state COMMAND… FIELD: print it, or nothing where the cloud says that there is no such machine; else fail.
read_state() {
  local found errors failure
  errors=$(mktemp) || return 1
  found=$("${@:1:$#-1}" describe "${place[@]}" --format "value(${!#})" 2>"$errors") || failure=$(<"$errors")
  rm -f "$errors"
  if [[ -z "${failure+set}" ]]; then
    echo "${found:-UNKNOWN}"
  elif ! grep -qE 'NOT_FOUND|was not found' <<<"$failure"; then
    fault "the state of $NAME cannot be read (${failure//$'\n'/ }); check gcloud auth login, the project and ZONE"
    return 1
  fi
}

# state: that of the machine, or of a request for it that has not made it yet.
state() {
  local found
  if [[ -n "${QUEUED:-}" ]]; then
    found=$(read_state gcloud compute tpus queued-resources state.state) || return 1
    [[ "$found" == ACTIVE ]] || { echo "$found"; return; }
  fi
  read_state "${tpu[@]}" state
}

# create: fails with 2 where the cloud refuses what no other try changes: a right, a type, a version that it does not know.
create() {
  local asked=("${tpu[@]}" create "${place[@]}" --accelerator-type "${TYPE:?set TYPE}" --version "$VERSION")
  if [[ -n "${QUEUED:-}" ]]; then
    asked=(gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE"
      --accelerator-type "$TYPE" --runtime-version "$VERSION")
  fi
  [[ -z "${SPOT:-}" ]] || asked+=(--spot)
  remembered run "${asked[@]}" && return
  [[ ! "$last_line" =~ PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT ]] || return 2
  return 1
}

remove() {
  if [[ -n "${QUEUED:-}" ]]; then
    run gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
  else
    run "${tpu[@]}" delete "${place[@]}" --quiet
  fi
}

# there: make the machine and wait for it. It is deleted only where the cloud took it away: a preempted machine stays
# listed, and none can be created under its name; one that cannot be told ready may hold somebody's work. Fails with 2
# where another try would not help: login, project or ZONE if no state was ever read, a machine that somebody stopped.
unread=2
there() {
  local found made=""
  while true; do
    found=$(state) || return "$unread"
    unread=1
    case $found in
      READY) say "$NAME is there" && return ;;
      "") create || return; made=1 ;;
      CREATING | STARTING | RESTARTING | DELETING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | SUSPENDING)
        say "waiting for $NAME, which is $found"
        sleep "${POLL_SECONDS:-20}" ;;
      PREEMPTED | TERMINATED | FAILED | SUSPENDED)
        [[ -z "$made" ]] || { fault "$NAME was made, and is $found"; return 1; }
        say "$NAME is $found; making it again"
        remove || return 1 ;;
      *)
        fault "$NAME is $found and is left as it is; start it, or delete it with launch/tpu_pod.sh delete"
        [[ "$found" != STOPPED ]] || return 2
        return 1 ;;
    esac
  done
}

ensure() {
  if [[ -n "${PRINT:-}" ]]; then create; else there || return; fi
  # Copy into an existing folder: otherwise scp creates it the first time, and a second level inside it the next time.
  on_all "mkdir -p $REMOTE" || return 1
  run "${tpu[@]}" scp --recurse "${SOURCES[@]/#/$here/../}" "$NAME:$REMOTE" --zone "$ZONE" --worker all || return 1
  on_all "${INSTALL:-cd $REMOTE && pip install -q -e '.[tpu]'}" || return 1
}

once() {
  ensure || return $(($? == 2 ? 2 : 75))
  # On standard error, where keep_running looks for the last error.
  on_all "cd $REMOTE && CANN_JAX_DISTRIBUTED=auto ${PYTHON:-python3} -m cann_jax.train $(printf '%q ' "$@") 2>&1 | tee -a run.log >&2; exit \${PIPESTATUS[0]}"
}

# Of the workers' Python alone: a signal to the shell around it would end that at once, and leave it running.
stop() {
  on_all "pkill -TERM -f '^[^ ]*python[^ ]* -m cann_jax[.]train( |\$)' || echo 'launch: no run on this worker' >&2"
}

case $action in
  run) if [[ -n "${PRINT:-}" ]]; then once "$@"; else keep_running once "$@"; fi ;;
  logs) on_all "tail -n 100 -f $REMOTE/run.log" ;;
  stop) stop ;;
  delete) remove ;;
  *) say "usage: launch/tpu_pod.sh [--print] run|logs|stop|delete …"; exit 2 ;;
esac

#!/usr/bin/env bash
# Start N processes of one run on this machine; restart all of them when one is lost (JAX cannot readmit a process).
#   launch/local.sh [--print] N COMMAND…
#   launch/local.sh 2 python -m cann_jax.train --config configs/quickstart.yaml
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
print_asked "${@:1:2}" && shift # not behind the command: it may have a --print of its own
(($# >= 2)) && [[ "$1" =~ ^[1-9][0-9]*$ ]] || { say "usage: launch/local.sh [--print] N COMMAND…"; exit 2; }
count=$1
shift
pids=()

free_port() {
  local port
  while port=$((20000 + RANDOM % 20000)); (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; do :; done
  echo "$port"
}

stop_all() {
  kill -TERM "${pids[@]}" 2>/dev/null
  for ((tenths = 0; tenths < 10 * ${GRACE_SECONDS:-30}; tenths++)); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null
  wait "${pids[@]}" 2>/dev/null
}

on_signal() {
  say "SIGTERM; stopping all $count processes"
  stop_all
  exit 75
}

# Start all processes; return the status of the first that does not exit with 0, after ending the others.
start_all() {
  local address status ended=0
  address="localhost:${PORT:-$(free_port)}"
  pids=()
  for ((index = 0; index < count; index++)); do
    CANN_JAX_COORDINATOR="$address" CANN_JAX_PROCESSES="$count" CANN_JAX_PROCESS="$index" "$@" &
    pids+=($!)
  done
  while ((ended < count)); do
    local pid
    wait -n -p pid "${pids[@]}"
    status=$?
    ended=$((ended + 1))
    if ((status != 0)); then
      for ((index = 0; index < count; index++)); do
        [[ "${pids[index]:-}" == "$pid" ]] && say "process $index ended with status $status; ending all $count"
      done
      stop_all
      return "$status"
    fi
    for index in "${!pids[@]}"; do [[ "${pids[index]}" == "$pid" ]] && unset "pids[index]"; done
  done
}

trap on_signal TERM INT

if [[ -n "${PRINT:-}" ]]; then
  for ((index = 0; index < count; index++)); do
    printf 'CANN_JAX_COORDINATOR=localhost:PORT CANN_JAX_PROCESSES=%s CANN_JAX_PROCESS=%s ' "$count" "$index"
    run "$@"
  done
  exit 0
fi
keep_running start_all "$@"

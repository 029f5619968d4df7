# What the launchers share. A run's exit status decides: 0 it has ended, 2 and 3 it cannot go on as it is asked
# to (bad input, margins out of reach), anything else (75 after SIGTERM, a kill, a lost machine) start it again:
# every start goes on where the last one stopped.

say() { echo "launch: $*" >&2; }

# Print a command instead of running it where PRINT is set.
run() {
  if [[ -n "${PRINT:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# keep_running COMMAND…: run it until it ends for good, at most RESTARTS (100) times again.
keep_running() {
  local restarts=0 status
  while true; do
    status=0
    run "$@" || status=$?
    case $status in 0 | 2 | 3) return "$status" ;; esac
    if ((restarts >= ${RESTARTS:-100})); then
      say "ended with status $status after $restarts restarts; giving up"
      return "$status"
    fi
    restarts=$((restarts + 1))
    say "ended with status $status; starting the whole job again ($restarts of ${RESTARTS:-100})"
    sleep "${RESTART_SECONDS:-5}"
  done
}

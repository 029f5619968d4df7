# Functions that the launchers share. The exit status of a run decides what happens: after 0 (done), 2 (bad input) and
# 3 (margins out of reach) or 4 (the constraint does not hold) the job ends; after anything else (75 after SIGTERM, a
# kill, a lost machine) it is started again and continues where it stopped.

say() { echo "launch: $*" >&2; }

# run COMMAND…: run it, or only print it if PRINT is set.
run() {
  if [[ -n "${PRINT:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# keep_running COMMAND…: run it, and restart it at most RESTARTS (100) times, until its exit status ends the job.
keep_running() {
  local restarts=0 status
  while true; do
    status=0
    run "$@" || status=$?
    case $status in 0 | 2 | 3 | 4) return "$status" ;; esac
    if ((restarts >= ${RESTARTS:-100})); then
      say "ended with status $status after $restarts restarts; giving up"
      return "$status"
    fi
    restarts=$((restarts + 1))
    say "ended with status $status; starting the whole job again ($restarts of ${RESTARTS:-100})"
    sleep "${RESTART_SECONDS:-5}"
  done
}

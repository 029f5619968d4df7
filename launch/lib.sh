# Functions that the launchers share. The exit status of a run decides what happens: after 1 (a fault that another try
# may mend), 75 (SIGTERM, another process lost) and where a signal ended the process, the job is started again and
# continues where it stopped. After any other it ends: 0 (done), 2 (bad input), 3 (disk or memory exhausted), 4 (the
# constraint does not hold), 5 (λ* not found), 130 (Ctrl-C), 141 (nobody reads its output).

say() { echo "launch: $*" >&2; }

# run COMMAND…: run it, or only print it if PRINT is set.
run() {
  if [[ -n "${PRINT:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# again STATUS: whether another start may end better.
again() {
  (($1 == 1 || $1 == 75 || ($1 > 128 && $1 != 130 && $1 != 141)))
}

# keep_running COMMAND…: run it, and restart it at most RESTARTS (100) times, until its exit status ends the job.
keep_running() {
  local restarts=0 status
  while true; do
    status=0
    run "$@" || status=$?
    again "$status" || return "$status"
    if ((restarts >= ${RESTARTS:-100})); then
      say "ended with status $status after $restarts restarts; giving up"
      return "$status"
    fi
    restarts=$((restarts + 1))
    say "ended with status $status; starting the whole job again ($restarts of ${RESTARTS:-100})"
    sleep "${RESTART_SECONDS:-5}"
  done
}

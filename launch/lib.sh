# shellcheck shell=bash
# Functions that the launchers share. The exit status of a run decides what happens: after 0 (done), 2 (bad input) and
# 3 (margins out of reach) or 4 (the constraint does not hold) the job ends; after anything else (75 after SIGTERM, a
# kill, a lost machine) it is started again and continues where it stopped.

say() { echo "launch: $*" >&2; }

# run COMMAND…: run it, or only print it if PRINT is set.
run() {
  if [[ -n "${PRINT:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# copied FILE: copy lines, and keep in FILE the last that tells of an error, else the last. Slurm's and our own do not count.
copied() {
  trap '' INT TERM # the job saves a checkpoint then, and must not lose whom it tells
  local line found=
  while IFS= read -r line || [[ -n "$line" ]]; do
    printf '%s\n' "$line"
    case $line in
      "" | launch:* | srun:* | slurmstepd:*) ;;
      *[Ee]rror:*) found=1 && printf '%s' "$line" >"$1" ;;
      *) [[ -n "$found" ]] || printf '%s' "$line" >"$1" ;;
    esac
  done
}

# watched COMMAND…: run it; last_line is then what it said last of an error, on standard error.
last_line=""
watched() {
  local file errors copier status=0
  file=$(mktemp) || return 1
  exec {errors}> >(copied "$file" >&2)
  copier=$!
  "$@" 2>&"$errors" || status=$?
  exec {errors}>&-
  # Not wait: what the command left running may hold its end open.
  for ((tenths = 0; tenths < 20; tenths++)); do
    kill -0 "$copier" 2>/dev/null || break
    sleep 0.1
  done
  last_line=$(<"$file")
  rm -f "$file"
  ((status == 0)) || say "ended with status $status; the last error was: ${last_line:-none said}"
  return "$status"
}

# keep_running COMMAND…: run it, and restart it at most RESTARTS (100) times, until its exit status ends the job.
keep_running() {
  local restarts=0 status
  while true; do
    status=0
    watched run "$@" || status=$?
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

# shellcheck shell=bash
# Functions that the launchers share. The exit status of a run decides what happens: after 1 (a fault that another try
# may mend), 75 (SIGTERM, another process lost) and where a signal ended the process (but the kernel's for want of memory),
# the job is started again and continues where it stopped. After any other it ends: 0 (done), 2 (bad input), 3 (disk or
# memory exhausted), 4 (the constraint does not hold), 5 (λ* not found), 130 (Ctrl-C), 141 (nobody reads its output).

say() { echo "launch: $*" >&2; }

# fault TEXT: say what is wrong; it is then the last error.
fault() { say "error: $*"; }

# print_asked ARGUMENT…: set PRINT if the first is --print, else fail. One behind others ends the script: it would be
# passed on to the program, and the real thing would start.
print_asked() {
  local argument
  for argument in "${@:2}"; do
    [[ "$argument" != --print ]] || { fault "--print is behind '$1'; make it the launcher's first argument"; exit 2; }
  done
  [[ "${1:-}" == --print ]] && export PRINT=1
}

# run COMMAND…: run it, or only print it if PRINT is set.
run() {
  if [[ -n "${PRINT:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

# again STATUS: whether another start may end better.
again() {
  (($1 == 1 || $1 == 75 || ($1 > 128 && $1 != 130 && $1 != 141)))
}

# from_outside STATUS: whether a process was stopped (75, SIGTERM) or lost (SIGKILL), and did not fail by itself, as it
# does with SIGSEGV or SIGABRT.
from_outside() {
  (($1 == 75 || $1 == 143 || $1 == 137))
}

# oom_kills: how many processes the kernel has killed for want of memory, in this control group (of version 2, of 1, or of
# a container that sees no other), else on this machine.
oom_kills() {
  local own=/proc/self/cgroup all=/sys/fs/cgroup file
  for file in "$all$(sed -n 's/^0:://p' "$own" 2>/dev/null)/memory.events" \
    "$all/memory$(sed -n 's/^[0-9]*:memory://p' "$own" 2>/dev/null)/memory.oom_control" \
    "$all/memory.events" "$all/memory/memory.oom_control" /proc/vmstat; do
    sed -n 's/^oom_kill //p' "$file" 2>/dev/null | grep . && return
  done
  echo 0
}

# for_memory STATUS KILLS: whether a command was killed for want of memory, and say so; KILLS is what oom_kills told before
# it. A preempted one is killed by the same signal, and starting that again helps.
NO_MEMORY="the kernel killed the run: memory is exhausted; use smaller batches or a machine with more; what is finished is kept"
for_memory() {
  (($1 == 137 && $(oom_kills) > $2)) || return 1
  fault "$NO_MEMORY"
}

# comparable "STATUS TEXT": the same without what differs from start to start: temporary names, and words with a digit,
# as addresses, numbers and dates are.
comparable() {
  local varying='s/tmp[._]?[[:alnum:]_]+/#/g; s/[[:alnum:]_]*[0-9][[:alnum:]_]*/#/g'
  printf '%s %s\n' "${1%% *}" "$(LC_ALL=C sed -E "$varying" < <(printf '%s' "${1#* }"))"
}

# copied FILE: copy lines, and keep in FILE the last that tells of an error, else the last. Slurm's do not count, nor what
# we say that is no error, nor what bash says of a signal ("lib.sh: line 84: 1234 Aborted"): the program's own says more.
copied() {
  trap '' INT TERM # the job saves a checkpoint then, and must not lose whom it tells
  local line found='' of_bash='\.sh: [^ ]+ [0-9]+: +[0-9]+ ' # "line" in any language
  while IFS= read -r line || [[ -n "$line" ]]; do
    printf '%s\n' "$line"
    [[ ! "$line" =~ $of_bash ]] || continue
    case $line in
      "" | srun:* | slurmstepd:*) ;;
      *[Ee]rror:* | *ERROR:*) found=1 && printf '%s' "${line#launch: }" >"$1" ;;
      launch:*) ;;
      *) [[ -n "$found" ]] || printf '%s' "$line" >"$1" ;;
    esac
  done
}

# remembered COMMAND…: run it; last_line is then what it said last of an error, on standard error.
last_line=""
remembered() {
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
  return "$status"
}

# watched COMMAND…: the same, and say what it said if it failed.
watched() {
  local status=0
  remembered "$@" || status=$?
  ((status == 0)) || say "ended with status $status${last_line:+; the last error was: $last_line}"
  return "$status"
}

# forwarded COMMAND…: run it, and pass SIGTERM on to it, Ctrl-C as SIGTERM: bash has what it waits for ignore that.
stopped=""
forwarded() {
  local child status=0 signalled
  "$@" &
  child=$!
  trap 'stopped=1; signalled=1; kill -TERM "$child" 2>/dev/null' TERM INT
  while true; do
    signalled=""
    wait "$child"
    status=$?
    [[ -n "$signalled" ]] || break # a signal ends the wait, and not yet the command
  done
  trap - TERM INT
  return "$status"
}

# keep_running COMMAND…: run it, and restart it at most RESTARTS (100) times, until its exit status, or a signal that was
# forwarded, ends the job.
keep_running() {
  local restarts=0 status kills
  while true; do
    status=0 kills=$(oom_kills)
    watched run "$@" || status=$?
    ! for_memory "$status" "$kills" || return 3
    { [[ -z "$stopped" ]] && again "$status"; } || return "$status"
    if ((restarts >= ${RESTARTS:-100})); then
      say "ended with status $status after $restarts restarts; giving up"
      return "$status"
    fi
    restarts=$((restarts + 1))
    say "ended with status $status; starting the whole job again ($restarts of ${RESTARTS:-100})"
    sleep "${RESTART_SECONDS:-5}"
  done
}

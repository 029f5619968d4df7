#!/usr/bin/env bash
# Run a command as a task of launch/slurm.sbatch; if it fails, append its status and its last line of error to FAILURES.
#   FAILURES=FILE launch/slurm_task.sh COMMAND…
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kills=$(oom_kills)
remembered forwarded "$@" # Slurm may signal this process alone, as the task's first
status=$?
! for_memory "$status" "$kills" || status=3 last_line=$NO_MEMORY
((status == 0)) || echo "$status $last_line" >>"${FAILURES:?set FAILURES}"
exit "$status"

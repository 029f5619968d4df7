"""``python -m cann_jax.report runs/NAME ...``: write the reports of runs, and compare several."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import REPORT
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags


def main(argv: Sequence[str]) -> None:
    """Write the reports of each run, and of several a comparison, and print the results.

    Raises:
        InputError: A folder does not hold a run, or a file was altered since.
    """
    flags = parse_flags(argv, REPORT)
    # Imported here: a run brings the model libraries, seconds that --help need not wait for.
    from etils import epath

    from cann_jax.reporting import write_report, write_score_model_report
    from cann_jax.reporting.comparison import write_comparison
    from cann_jax.reporting.findings import EndedStages
    from cann_jax.reporting.finished_run import runs_to_report
    from cann_jax.run.run import Run
    from cann_jax.run.standing import standing

    runs = runs_to_report(flags.runs)
    standings = [standing(run, EndedStages(run).commits) for run in runs]
    for each in filter(None, standings):
        print(each.line)
    for run in runs:
        if not isinstance(run, Run):
            write_score_model_report(run)
    found = [
        write_report(run, each and each.at_work)
        for run, each in zip(runs, standings, strict=True)
        if isinstance(run, Run)
    ]
    if len(found) > 1:
        write_comparison(found, epath.Path(flags.out))


if __name__ == "__main__":
    sys.exit(run_command(main))

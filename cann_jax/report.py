"""``python -m cann_jax.report runs/NAME ...``: write the reports of finished runs again."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import REPORT
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags


def main(argv: Sequence[str]) -> None:
    """Write ``report.md`` and its pictures of each run, and print its result.

    Raises:
        InputError: A folder does not hold a run, or the run is not finished.
    """
    flags = parse_flags(argv, REPORT)
    # Imported here: a run brings the model libraries, seconds that --help need not wait for.
    from cann_jax.reporting import write_report
    from cann_jax.reporting.finished_run import finished_run

    for run in [finished_run(folder) for folder in flags.runs]:
        write_report(run)


if __name__ == "__main__":
    sys.exit(run_command(main))

"""``python -m cann_jax.train --config FILE.yaml``: from prompts to an aligned model and a report."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import TYPE_CHECKING

from cann_jax.command_line.errors import run_command
from cann_jax.command_line.run_options import Options, parse_run
from cann_jax.files.errors import InfeasibleError, NotConvergedError, NotHeldError

if TYPE_CHECKING:
    from cann_jax.run.run import Run

# JAX and the stages are imported where they are used: they take seconds, for which --help and a mistyped key
# need not wait.


def main(argv: Sequence[str]) -> None:
    """Run the stages asked for, or only check them, with ``--dry_run``.

    Raises:
        InputError: One line that says what is wrong and how to fix it.
        NotHeldError: With ``--require holds``, the constraints were not shown to hold.
    """
    config, options = parse_run(argv)
    from cann_jax.run.run import Run
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.options import check_options
    from cann_jax.runtime.session import session
    from cann_jax.training.profile import profiled

    check_options()
    if options.device is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs on a device, and libtpu would look for one
        from cann_jax_tools.proposal import propose

        propose(Run(config), options.device, options.model_config, argv)
        return
    keep_compilations()
    profiled.set(options.profiled)
    with session(config, config.batches()):
        _run(Run(config), options)


def _run(run: "Run", options: Options) -> None:
    from cann_jax.run.exports import keeping_formats
    from cann_jax.run.folder import check_folder, open_folder
    from cann_jax.run.stages import print_unread
    from cann_jax.run.tracking import check_tracking, tracked

    check_tracking(run)
    print_unread(run.pipeline, run.config)
    if options.model_config is None:
        run = keeping_formats(run)
    if options.dry_run:
        from cann_jax.dry_run.run import dry_run

        check_folder(run.folder)
        return dry_run(run, options.stages, options.model_config)
    from cann_jax.run.checks import check_stages, run_checked_stages

    with open_folder(run.folder, run.config, lambda: check_stages(run, options.stages)), tracked(run):
        try:
            run_checked_stages(run, options.stages, verify=options.verify)
        except (InfeasibleError, NotConvergedError):
            _report(run)  # shows what can be reached
            raise
        _report(run)
    if options.require is not None:
        _check_verdict(run)


def _report(run: "Run") -> None:
    from cann_jax.reporting import write_report
    from cann_jax.run.tracking import conclude
    from cann_jax.runtime import distributed
    from cann_jax.runtime.mesh import alone

    if distributed.is_first():
        with alone():
            found = write_report(run)
        if found.results is not None:
            conclude(run, found.results, run.config.export if "export" in found.commits else ())


def _check_verdict(run: "Run") -> None:
    from cann_jax.run.outputs import read_results

    verdict = read_results(run)["summary"]["verdict"]
    if verdict != "holds":
        raise NotHeldError(
            f"--require holds: the verdict is {verdict!r} (see {run.folder / 'report.html'}); lower the "
            "margin, train on more prompts, or evaluate on more"
        )


if __name__ == "__main__":
    sys.exit(run_command(main))

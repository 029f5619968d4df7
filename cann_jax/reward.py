"""``python -m cann_jax.reward --config FILE.yaml``: from human preferences to a reward or cost model."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import TYPE_CHECKING

from cann_jax.command_line.commands import RewardFlags
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.run_options import parse_score_model

if TYPE_CHECKING:
    from cann_jax.run.run import ScoreModelRun

# JAX and the stages are imported where they are used: see train.py.


def main(argv: Sequence[str]) -> None:
    """Prepare the pairs, train, evaluate on held-out pairs and export; or only check, with ``--dry_run``.

    Raises:
        InputError: One line that says what is wrong and how to fix it.
    """
    config, flags = parse_score_model(argv)
    from cann_jax.run.run import ScoreModelRun
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.options import check_options
    from cann_jax.runtime.session import session
    from cann_jax.training.profile import profiled

    check_options()
    keep_compilations()
    profiled.set(flags.profiled)
    with session(config, config.batches()):
        _run(ScoreModelRun(config), flags)


def _run(run: "ScoreModelRun", flags: RewardFlags) -> None:
    from cann_jax.run.folder import check_folder, open_folder
    from cann_jax.run.tracking import check_tracking, tracked

    check_tracking(run)
    if flags.dry_run:
        from cann_jax.dry_run.score_model import dry_run_score_model

        check_folder(run.folder)
        return dry_run_score_model(run, flags.model_config)
    from cann_jax.reporting import write_score_model_report
    from cann_jax.run.execution import run_stages
    from cann_jax.runtime import distributed
    from cann_jax.runtime.mesh import alone

    with open_folder(run.folder, run.config), tracked(run):
        run_stages(run, run.stages, verify=flags.verify)
        if distributed.is_first():
            with alone():
                write_score_model_report(run)


if __name__ == "__main__":
    sys.exit(run_command(main))

"""``python -m cann_jax.reward --config FILE.yaml``: from human preferences to a reward or cost model."""

import os
import sys
import time
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import RewardFlags
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.run_options import parse_score_model
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.runtime.compilation import keep_compilations
from cann_jax.runtime.session import session


def main(argv: Sequence[str]) -> None:
    """Prepare the pairs, train, evaluate on held-out pairs and export; or only check, with ``--dry_run``.

    Raises:
        InputError: One line that says what is wrong and how to fix it.
    """
    config, flags = parse_score_model(argv)
    keep_compilations()
    with session(config, {"pairs_per_step / accumulation": config.pairs_per_step // config.accumulation}):
        _run(config, flags)


def _run(config: ScoreModelConfig, flags: RewardFlags) -> None:
    from cann_jax.run.run import check_folder, open_folder
    from cann_jax.stages.score_model import ScoreRun, run_score_model

    start, run = time.monotonic(), ScoreRun(config)
    if flags.dry_run:
        from cann_jax.dry_run.score_model import dry_run_score_model

        check_folder(run.folder)
        return dry_run_score_model(run, flags.model_config)
    open_folder(run)
    run_score_model(run)
    print(f"{config.name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))

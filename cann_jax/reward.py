"""``python -m cann_jax.reward --config FILE.yaml``: human preferences to a reward or cost model."""

import os
import sys
import time
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.cli import parse_score_model, run_command
from cann_jax.compilation import keep_compilations
from cann_jax.session import session


def main(argv: Sequence[str]) -> None:
    """Prepare the pairs, train, judge on held-out pairs, export.

    Raises:
        InputError: one line that says what is wrong and how to mend it.
    """
    config = parse_score_model(argv)
    keep_compilations()
    from cann_jax.stages.run import open_folder
    from cann_jax.stages.score_models import ScoreRun, run_score_model

    began = time.monotonic()
    with session(config, {"pairs_per_step / accumulation": config.pairs_per_step // config.accumulation}):
        run = ScoreRun(config)
        open_folder(run)
        run_score_model(run)
        print(f"{config.name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))

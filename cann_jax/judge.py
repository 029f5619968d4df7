"""``python -m cann_jax.judge runs/NAME --judge.model MODEL``: what an outside judge says of a run."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import JUDGE
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_configured
from cann_jax.config.judge import JudgeConfig


def main(argv: Sequence[str]) -> None:
    """Judge a run, write its reports anew, and print what the judge said.

    Raises:
        InputError: One line that says what is wrong and how to fix it; the answers so far are kept.
    """
    config, flags = parse_configured(argv, JUDGE, JudgeConfig)
    # Imported here: a run brings the model libraries, seconds that --help need not wait for.
    from dataclasses import replace

    from cann_jax.config.mesh import DistributedConfig
    from cann_jax.judging.judge import judge_run
    from cann_jax.reporting import write_pages
    from cann_jax.reporting.finished_run import finished_run
    from cann_jax.reporting.judged import write_judged
    from cann_jax.run.run import Run
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.options import check_options
    from cann_jax.runtime.session import session

    check_options()
    run = finished_run(flags.run)
    here = Run(replace(run.config, mesh=config.mesh, distributed=DistributedConfig()))
    sampled = {"sample.prompts_per_batch": here.config.sample.prompts_per_batch}
    keep_compilations()
    with session(here.config, {} if config.prompts.path is None else sampled):
        found = judge_run(here, config)
    write_pages(run)
    write_judged(run, found)


if __name__ == "__main__":
    sys.exit(run_command(main))

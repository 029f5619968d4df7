"""``python -m cann_jax.train --config FILE.yaml``: from prompts to an aligned model and a report."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.errors import run_command
from cann_jax.command_line.run_options import Options, parse_run
from cann_jax.run.run import Run, check_folder, open_folder
from cann_jax.runtime import distributed
from cann_jax.runtime.compilation import keep_compilations
from cann_jax.runtime.session import session
from cann_jax.runtime.sharding import alone, batches_of


def main(argv: Sequence[str]) -> None:
    """Run the stages asked for, or only check them with ``--dry_run``.

    Raises:
        InputError: One line that says what is wrong and how to fix it.
    """
    config, options = parse_run(argv)
    keep_compilations()
    with session(config, batches_of(config)):
        _run(Run(config), options)


def _run(run: Run, options: Options) -> None:
    if options.dry_run:
        from cann_jax.dry_run.run import dry_run

        check_folder(run.folder)
        return dry_run(run, options.model_config)
    open_folder(run)
    for name in options.stages:
        start = time.monotonic()
        _stage(name)(run)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if "evaluate" in options.stages:
        from cann_jax.reporting import write_report

        if distributed.is_first():
            with alone():
                write_report(run)


def _stage(name: str) -> Callable[[Run], None]:
    """Return the stage's function, imported only when it runs, so that a cheap stage starts quickly."""
    function: Callable[[Run], None] = getattr(import_module(f"cann_jax.stages.{name}"), f"run_{name}")
    return function


if __name__ == "__main__":
    sys.exit(run_command(main))

"""``python -m cann_jax.train --config FILE.yaml``: prompts to aligned model and report."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax import distributed, preemption
from cann_jax.cli import Options, parse_run, run_command
from cann_jax.compilation import keep_compilations
from cann_jax.config_mesh import DistributedConfig
from cann_jax.sharding import alone, check_layout, make_mesh, on_mesh
from cann_jax.stages.run import CONFIG, Run


def main(argv: Sequence[str]) -> None:
    """Run the stages asked for, or check them with ``--dry_run``.

    Raises:
        InputError: one line that says what is wrong and how to mend it.
    """
    config, options = parse_run(argv)
    keep_compilations()
    with (
        distributed.joined(config.distributed),
        preemption.heeded(),
        on_mesh(make_mesh(config.mesh)) as mesh,
    ):
        check_layout(config, mesh)
        distributed.check_alike(replace(config, distributed=DistributedConfig()))
        _run(Run(config), options)


def _run(run: Run, options: Options) -> None:
    run.check_folder()
    if options.dry_run:
        from cann_jax.stages.dry_run import dry_run

        return dry_run(run)
    run.write_config()
    distributed.check_shared(run.folder / CONFIG)
    for name in options.stages:
        start = time.monotonic()
        _stage(name)(run)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if "evaluate" in options.stages:
        from cann_jax.report import write_report

        if distributed.is_first():
            with alone():
                write_report(run)


def _stage(name: str) -> Callable[[Run], None]:
    """The stage's function; imported only when it runs, so that a cheap stage starts quickly."""
    from importlib import import_module

    return getattr(import_module(f"cann_jax.stages.{name}"), f"run_{name}")


if __name__ == "__main__":
    sys.exit(run_command(main))

"""The command lines of commands that take a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cann_jax.command_line.commands import (
    COMPILE_CHECK,
    REWARD,
    TRAIN,
    Command,
    CompileCheckFlags,
    Flags,
    RewardFlags,
)
from cann_jax.command_line.parser import parse_configured, wants_help
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.config.scorers import registered_kinds, scorer_kind
from cann_jax.files.errors import InputError
from cann_jax.run.pipeline import PIPELINE
from cann_jax.run.stages import Pipeline, chosen_stages


@dataclass(frozen=True)
class Options:
    """The stages of a run to do, in their order, and the other flags of ``TrainFlags``."""

    stages: Pipeline
    dry_run: bool = False
    verify: bool = False
    model_config: str | None = None
    require: Literal["holds"] | None = None
    profiled: range = range(0)
    device: str | None = None


def parse_run(argv: Sequence[str]) -> tuple[RunConfig, Options]:
    """Parse the command line of ``train`` and check everything that needs no other file.

    Raises:
        InputError: One line that names the key, where it was given, and how to fix it.
        SystemExit: After ``--help``.
    """
    config, flags = _parse_run(argv, TRAIN)
    stages = chosen_stages(PIPELINE, config, flags.stages)
    if flags.require is not None and "evaluate" not in {stage.name for stage in stages}:
        raise InputError(
            "command line: --require reads the verdict of the stage 'evaluate'; add that to --stages, "
            "or leave --require out"
        )
    return config, Options(
        stages, flags.dry_run, flags.verify, flags.model_config, flags.require, flags.profiled, flags.device
    )


def parse_score_model(argv: Sequence[str]) -> tuple[ScoreModelConfig, RewardFlags]:
    """Parse the command line of ``reward``; otherwise as ``parse_run``."""
    return parse_configured(argv, REWARD, ScoreModelConfig)


def parse_compile_check(argv: Sequence[str]) -> tuple[RunConfig, CompileCheckFlags]:
    """Parse the command line of ``compile-check``; otherwise as ``parse_run``."""
    return _parse_run(argv, COMPILE_CHECK)


def _parse_run(argv: Sequence[str], command: Command[Flags]) -> tuple[RunConfig, Flags]:
    # Only the help text shows every kind: importing them takes seconds.
    kinds = registered_kinds() if wants_help(argv) else ()
    variants = {f"SCORER of 'kind: {kind}'": scorer_kind(kind) for kind in kinds}
    return parse_configured(argv, command, RunConfig, variants)

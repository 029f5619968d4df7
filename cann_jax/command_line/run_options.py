"""The command lines of commands that take a configuration, and the stages that one asks for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cann_jax.command_line.commands import (
    COMPILE_CHECK,
    REWARD,
    TRAIN,
    Command,
    CompileCheckFlags,
    ConfiguredFlags,
    Flags,
    RewardFlags,
)
from cann_jax.command_line.parser import parse_configured
from cann_jax.config.prealign import all_to_prealign
from cann_jax.config.run import RunConfig, check_run, scorers_of
from cann_jax.config.schema import from_mapping, nearest
from cann_jax.config.score_model import ScoreModelConfig, check_score_model
from cann_jax.config.scorers import SCORER_KINDS, scorer_from_dict
from cann_jax.files.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do with a run's configuration.

    Args:
        stages: The stages to run, in their order.
        dry_run: Check everything and compute nothing.
        model_config: A config.json that the dry run uses in place of the model.
    """

    stages: tuple[str, ...]
    dry_run: bool
    model_config: str | None = None


def parse_run(argv: Sequence[str]) -> tuple[RunConfig, Options]:
    """Parse the command line of ``train`` and check everything that needs no other file.

    The scorers' dictionaries in the result are complete: every default is filled in.

    Raises:
        InputError: One line that names the key, where it was given, and how to fix it.
        SystemExit: After ``--help``.
    """
    config, flags = _parse_run(argv, TRAIN)
    _check_model_config(flags)
    return config, Options(_stages(flags.stages, config), flags.dry_run, flags.model_config)


def parse_score_model(argv: Sequence[str]) -> tuple[ScoreModelConfig, RewardFlags]:
    """Parse the command line of ``reward``; otherwise as ``parse_run``."""
    config, flags = parse_configured(argv, REWARD, ScoreModelConfig, _score_model_config)
    _check_model_config(flags)
    return config, flags


def parse_compile_check(argv: Sequence[str]) -> tuple[RunConfig, CompileCheckFlags]:
    """Parse the command line of ``compile-check``; otherwise as ``parse_run``."""
    return _parse_run(argv, COMPILE_CHECK)


def _parse_run(argv: Sequence[str], command: Command[Flags]) -> tuple[RunConfig, Flags]:
    variants = {f"SCORER of 'kind: {kind}'": schema for kind, schema in SCORER_KINDS.items()}
    return parse_configured(argv, command, RunConfig, _run_config, variants)


def _check_model_config(flags: ConfiguredFlags) -> None:
    if flags.model_config is not None and not flags.dry_run:
        raise InputError("command line: --model_config belongs to --dry_run; add that, or leave it out")


def _score_model_config(values: Mapping[str, Any]) -> ScoreModelConfig:
    config = from_mapping(ScoreModelConfig, values)
    check_score_model(config)
    return config


def _run_config(values: Mapping[str, Any]) -> RunConfig:
    config = _with_full_scorers(from_mapping(RunConfig, values))
    check_run(config)
    return config


_NEEDS = {
    "pairs": "the section preferences",
    "prealign": "a scorer of kind implicit with prealigned.preference",
    "pair_scores": "align.pairs: dataset with align.preference: pseudo_reward",
    "rounds": "rounds of 2 or more",
}
STAGES = ("pairs", "prealign", "sample", "score", "dual", "pair_scores", "align", "rounds", "evaluate")


def _with_full_scorers(config: RunConfig) -> RunConfig:
    """The configuration with every scorer's dictionary checked and its defaults filled in."""
    replace = dataclasses.replace
    reward = replace(config.reward, scorer=_full_scorer(config.reward.scorer, "reward.scorer"))
    constraints = {
        name: replace(item, scorer=_full_scorer(item.scorer, f"constraints.{name}.scorer"))
        for name, item in config.constraints.items()
    }
    also = {name: _full_scorer(item, f"evaluate.also.{name}") for name, item in config.evaluate.also.items()}
    evaluate = replace(config.evaluate, also=also)
    return replace(config, reward=reward, constraints=constraints, evaluate=evaluate)


def _full_scorer(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"kind": values.get("kind"), **dataclasses.asdict(scorer_from_dict(values, key))}


def _stages(text: str | None, config: RunConfig) -> tuple[str, ...]:
    """The stages of this configuration, or those of them that were asked for."""
    align = config.align
    absent = {
        "pairs": config.preferences is None,
        "prealign": not all_to_prealign(scorers_of(config).values()),
        "pair_scores": align.pairs != "dataset" or align.preference != "pseudo_reward",
        "rounds": config.rounds == 1,
    }
    there = tuple(name for name in STAGES if not absent.get(name))
    if text is None:
        return there
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in STAGES:
            raise InputError(
                f"command line: --stages: there is no stage {name!r}; did you mean {nearest(name, STAGES)}? "
                f"The stages are {', '.join(STAGES)}"
            )
        if name not in there:
            raise InputError(f"command line: --stages: the stage {name!r} needs {_NEEDS[name]}; add it")
    return tuple(name for name in there if name in asked)

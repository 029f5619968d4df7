"""Scorers: each states which way is better, and hands on scores of which more is better."""

from pathlib import Path

from cann_jax.config.run import PromptsConfig
from cann_jax.config.scorers import (
    ColumnScorer,
    FunctionScorer,
    ImplicitScorer,
    InoffensiveScorer,
    JudgeScorer,
    RelevanceScorer,
    RewardModelScorer,
    scorer_from_dict,
)
from cann_jax.data.prompts import prompt_ids
from cann_jax.files.atomic import fingerprint_file, fingerprint_json
from cann_jax.models.adapters.peft import adapter_files
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers import implicit, judge, reward_model
from cann_jax.scorers.base import Scored, Scorer, check_finite
from cann_jax.scorers.column import Column
from cann_jax.scorers.function import Function
from cann_jax.scorers.inoffensive import Inoffensive
from cann_jax.scorers.relevance import Relevance

__all__ = ["Scored", "Scorer", "check_finite", "check_scorer", "load_scorer", "model_fingerprint"]


def load_scorer(values: dict, key: str, reference: LanguageModel | None, prompts: PromptsConfig) -> Scorer:
    """The scorer of a configuration's dictionary, loaded and probed.

    Args:
        values: ``kind`` and that kind's keys.
        key: Where the dictionary stands, for messages.
        reference: π_ref, for the scorers that ask it.
        prompts: The template.

    Raises:
        InputError: something it needs is missing, or its probe fails.
    """
    match scorer_from_dict(values, key):
        case RelevanceScorer() as config:
            return Relevance.load(config, reference, prompts)
        case InoffensiveScorer() as config:
            return Inoffensive.load(config, key)
        case ColumnScorer() as config:
            return Column.load(config, key)
        case FunctionScorer() as config:
            return Function.load(config, key)
        case ImplicitScorer() as config:
            return implicit.Implicit.load(config, key, reference, prompts)
        case RewardModelScorer() as config:
            return reward_model.RewardModel.load(config, key)
        case JudgeScorer() as config:
            return judge.Judge.load(config, key, reference)
        case other:
            raise AssertionError(f"no scorer for {type(other).__name__}")


def check_scorer(
    values: dict, key: str, reference: ModelFiles | None, prompts: PromptsConfig
) -> Scorer | None:
    """What can be found wrong with a scorer without a model's weights being read.

    Args:
        values: As ``load_scorer``.
        key: As ``load_scorer``.
        reference: Files of π_ref; None opens no model, and checks no scorer that reads one's files.
        prompts: The template.

    Returns:
        The scorer, loaded and probed, where it needs no model; else None.

    Raises:
        InputError: as ``load_scorer``.
    """
    match scorer_from_dict(values, key):
        case RelevanceScorer() | RewardModelScorer() | JudgeScorer() | ImplicitScorer() if reference is None:
            return None
        case RelevanceScorer() as config:
            prompt_ids(config.neutral_prompt, reference.tokenizer, prompts)
        case RewardModelScorer() as config:
            reward_model.checked(config, key)
        case ImplicitScorer() as config:
            implicit.checked(config, key, reference, prompts)
        case JudgeScorer() as config:
            files = reference if config.path is None else open_model(config.path, config.revision)
            judge.checked(config, key, files.tokenizer)
        case _:
            return load_scorer(values, key, None, prompts)
    return None


def model_fingerprint(values: dict, key: str) -> str | None:
    """Of the files of the model or adapter that a scorer brings with it; None where it brings none."""
    config = scorer_from_dict(values, key)
    if isinstance(config, RewardModelScorer | JudgeScorer) and config.path is not None:
        return open_model(config.path, config.revision).fingerprint()
    if isinstance(config, ImplicitScorer):
        source = config.prealigned
        if source.model is not None:
            return open_model(source.model, source.revision).fingerprint()
        if source.adapter is not None:
            return fingerprint_json([fingerprint_file(path) for path in adapter_files(Path(source.adapter))])
    return None

"""Scorers: each states which way is better, and hands on scores of which more is better."""

from cann_jax.config import (
    ColumnScorer,
    FunctionScorer,
    ImplicitScorer,
    InoffensiveScorer,
    PromptsConfig,
    RelevanceScorer,
    scorer_from_dict,
)
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers.base import Scored, Scorer, check_finite
from cann_jax.scorers.column import Column
from cann_jax.scorers.function import Function
from cann_jax.scorers.implicit import Implicit
from cann_jax.scorers.inoffensive import Inoffensive
from cann_jax.scorers.relevance import Relevance

__all__ = ["Scored", "Scorer", "check_finite", "load_scorer"]


def load_scorer(values: dict, key: str, reference: LanguageModel, prompts: PromptsConfig) -> Scorer:
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
            return Implicit.load(config, key, reference, prompts)
        case other:
            raise AssertionError(f"no scorer for {type(other).__name__}")

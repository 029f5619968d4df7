"""Scorers from plain mappings, and the texts that tests score."""

from pathlib import Path
from typing import Any

from cann_jax.config.model import PromptsConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.scorers import ScorerConfig
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers import Context, Scorer

PROMPTS = PromptsConfig(train="", heldout="", on_overlong="error")
KEY = "constraints.safe.scorer"
TEXTS = [["You are a stupid piece of shit.", "Lovely weather today."], ["Thank you, dear.", "Well."]]


def load_scorer(values: dict[str, Any], model: LanguageModel | None = None, key: str = KEY) -> Scorer:
    """Load a scorer from ``kind`` and that kind's keys, as the parser and a run do together."""
    files = None if model is None else model.files
    context = Context(key, PROMPTS, files, reference=lambda: model, prealigned=lambda asked: Path(asked.name))
    return from_mapping(ScorerConfig, values, key).load(context)

"""The tiny model as a policy, a block of responses, and scorers from plain mappings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cann_jax.config.model import PromptsConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.scorers import ScorerConfig
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.responses import Responses
from cann_jax.data.templates import prompt_ids
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
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


@pytest.fixture(scope="session")
def model(tiny_folder) -> LanguageModel:
    files = open_model(str(tiny_folder))
    return LanguageModel.of(load_decoder(files, "float32"), files)


@pytest.fixture(scope="session")
def dialogues(model) -> Responses:
    """Two prompts, one of them behind an earlier turn, with two responses each; texts alone are real."""
    earlier = (Turn("user", "Hello"), Turn("assistant", "Good day"))
    prompts = (Prompt("007", "Hello"), Prompt("b", "Tell me", earlier=earlier))
    ids = tuple(prompt_ids(p.text, model.tokenizer, PROMPTS, p.earlier) for p in prompts)
    lengths = np.ones((2, 2), np.int32)
    zeros = np.zeros((2, 2), np.float32)
    return Responses(EncodedPrompts(prompts, ids), lengths[..., None], lengths, lengths > 0, zeros, TEXTS)

"""A block of responses for every scorer."""

import numpy as np
import pytest

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.responses import Responses
from cann_jax.data.templates import prompt_ids
from cann_jax.models.language_model import LanguageModel
from tests.builders.scorers import PROMPTS, TEXTS


@pytest.fixture(scope="session")
def model(tiny_model) -> LanguageModel:
    """The policy, of which scorers of a model's own log-probs ask."""
    return tiny_model


@pytest.fixture(scope="session")
def dialogues(model) -> Responses:
    """Two prompts, one of them behind an earlier turn, with two responses each; texts alone are real."""
    earlier = (Turn("user", "Hello"), Turn("assistant", "Good day"))
    prompts = (Prompt("007", "Hello"), Prompt("b", "Tell me", earlier=earlier))
    ids = tuple(prompt_ids(p, model.tokenizer, PROMPTS) for p in prompts)
    lengths = np.ones((2, 2), np.int32)
    zeros = np.zeros((2, 2), np.float32)
    return Responses(EncodedPrompts(prompts, ids), lengths[..., None], lengths, lengths > 0, zeros, TEXTS)

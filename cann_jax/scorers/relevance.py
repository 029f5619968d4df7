"""Pointwise mutual information of prompt and response under the reference."""

from dataclasses import dataclass

import numpy as np

from cann_jax.config.run import PromptsConfig
from cann_jax.config.scorers import RelevanceScorer
from cann_jax.data.responses import Responses
from cann_jax.data.templates import prompt_ids
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers.base import Scored


@dataclass(frozen=True)
class Relevance:
    """log π_ref(y|x) − log π_ref(y|neutral prompt), nats, in all or a token; higher is better.

    Args:
        config: Neutral prompt and unit.
        reference: π_ref.
        neutral: Ids of the neutral prompt in the run's template.
    """

    config: RelevanceScorer
    reference: LanguageModel
    neutral: np.ndarray

    @classmethod
    def load(cls, config: RelevanceScorer, reference: LanguageModel, prompts: PromptsConfig) -> "Relevance":
        return cls(config, reference, prompt_ids(config.neutral_prompt, reference.tokenizer, prompts))

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        neutral = [self.neutral] * responses.shape[0]
        values = reference_logps - self.reference.logps(neutral, responses.tokens, responses.lengths)
        return Scored(values / responses.lengths.astype(np.float32) if self.config.per_token else values)

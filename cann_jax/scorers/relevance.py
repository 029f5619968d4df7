"""Pointwise mutual information of prompt and response under the reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.data.templates import prompt_ids
from cann_jax.scorers.base import Context, Scored, Scorer, ScorerKind

if TYPE_CHECKING:
    from cann_jax.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class RelevanceScorer(ScorerKind):
    """log π_ref(y|x) − log π_ref(y|neutral prompt), nats; higher is better.

    Args:
        neutral_prompt: The prompt that stands for "no particular question".
        per_token: Divide by the number of response tokens.
    """

    kind: Literal["relevance"] = "relevance"
    neutral_prompt: str = "Say something."
    per_token: bool = True

    def load(self, context: Context) -> "Relevance":
        reference = context.reference()
        neutral = prompt_ids(Prompt("", self.neutral_prompt), reference.tokenizer, context.prompts)
        return Relevance(self, reference, neutral)

    def check(self, context: Context) -> None:
        if context.files is not None:
            prompt_ids(Prompt("", self.neutral_prompt), context.files.tokenizer, context.prompts)


@dataclass(frozen=True)
class Relevance(Scorer):
    """A loaded ``RelevanceScorer``; ``neutral`` holds the ids of the neutral prompt in the run's template."""

    config: RelevanceScorer
    reference: "LanguageModel"
    neutral: np.ndarray

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        # All are responses to one prompt, which is then computed once for them.
        tokens, lengths = responses.tokens, responses.lengths
        together = tokens.reshape(1, -1, tokens.shape[-1]), lengths.reshape(1, -1)
        values = reference_logps - self.reference.logps([self.neutral], *together).reshape(lengths.shape)
        return Scored(values / lengths.astype(np.float32) if self.config.per_token else values)

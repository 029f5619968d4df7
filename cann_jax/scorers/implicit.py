"""PeCAN's scores: how much likelier a pre-aligned model finds a response than the reference does."""

from dataclasses import dataclass, replace

import numpy as np

from cann_jax.config import PromptsConfig
from cann_jax.config_scorers import ImplicitScorer, Prealigned
from cann_jax.data.prompts import Prompt, encode_prompts
from cann_jax.data.responses import Responses
from cann_jax.errors import InputError
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers.base import Scored

SYSTEM_TOKENS = 512  # room for the system message beyond prompts.max_tokens


@dataclass(frozen=True)
class Implicit:
    """β·(log π_other(y|x) − log π_ref(y|x)), nats; higher is better (paper, algorithm 2, step 2).

    Args:
        config: β and where π_other comes from.
        model: π_other, or π_ref where a system prompt alone makes π_other of it.
        prompts: Template and limits, π_other's system message included.
    """

    config: ImplicitScorer
    model: LanguageModel
    prompts: PromptsConfig

    @classmethod
    def load(
        cls, config: ImplicitScorer, key: str, reference: LanguageModel, prompts: PromptsConfig
    ) -> "Implicit":
        """Raises InputError where not exactly one source is given, or β is not above 0."""
        if not config.beta > 0:
            raise InputError(f"{key}.beta is {config.beta}; it must be greater than 0")
        _check_source(config.prealigned, f"{key}.prealigned", prompts)
        return cls(config, reference, _prompts_of(config.prealigned, prompts))

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        ids = self._prompt_ids(responses.prompts.prompts, responses.tokens.shape[-1])
        other = self.model.logps(ids, responses.tokens, responses.lengths)
        return Scored((self.config.beta * (other - reference_logps)).astype(np.float32))

    def _prompt_ids(self, prompts: tuple[Prompt, ...], response: int) -> tuple[np.ndarray, ...]:
        room = self.model.config.max_positions - response
        return encode_prompts(prompts, self.model.tokenizer, self.prompts, room).ids


def _check_source(prealigned: Prealigned, key: str, prompts: PromptsConfig) -> None:
    if prealigned.system_prompt is None:
        raise InputError(f"{key} is empty; give system_prompt")
    if prompts.template != "chat":
        raise InputError(f"{key}.system_prompt needs prompts.template 'chat', which holds system messages")


def _prompts_of(prealigned: Prealigned, prompts: PromptsConfig) -> PromptsConfig:
    """The run's prompts as π_other sees them; none may be dropped, for its responses are there already."""
    cut = "truncate_prompt_left" if prompts.on_overlong == "truncate_prompt_left" else "error"
    longer = prompts.max_tokens + SYSTEM_TOKENS
    return replace(prompts, system=prealigned.system_prompt, on_overlong=cut, max_tokens=longer)

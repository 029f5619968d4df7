"""What a scorer is, and the checks that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cann_jax.config.scorers import Probe
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class Scored:
    """Scores of a block of responses.

    Args:
        values: (N, K) float32; larger is better, whatever the scorer's own sign.
        counts: Things that happened and are worth saying, by name.
    """

    values: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


class Scorer(Protocol):
    """Scores responses; ``reference_logps (N, K)`` is log π_ref(y|x) of each, nats."""

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored: ...


class TextScorer(Protocol):
    """A scorer that reads texts alone, and so can be probed when it loads."""

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored: ...


class DialogueScorer(ABC):
    """A scorer that reads prompts with the turns before them, and texts of responses."""

    @abstractmethod
    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        """One score for each prompt and response."""

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        prompts = [prompt for prompt in responses.prompts.prompts for _ in range(responses.shape[1])]
        scored = self.score_prompts(prompts, responses.flat_texts())
        return Scored(scored.values.reshape(responses.shape), scored.counts)

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        """As a ``TextScorer``: prompts of one turn, called by their numbers."""
        return self.score_prompts([Prompt(str(n), text) for n, text in enumerate(prompts)], responses)


def score_flat(scorer: TextScorer, responses: Responses) -> Scored:
    """Score all responses of a block as two lists of texts."""
    scored = scorer.score_texts(responses.prompt_texts(), responses.flat_texts())
    return Scored(scored.values.reshape(responses.shape), scored.counts)


def run_probe(scorer: TextScorer, probe: Probe | None, key: str) -> None:
    """Raise InputError where the scorer puts the probe's worse response above its better one."""
    if probe is None:
        return
    better, worse = scorer.score_texts([probe.prompt] * 2, [probe.better, probe.worse]).values
    if not better > worse:
        raise InputError(
            f"{key}: the probe's better response scores {better:.4g} and the worse one {worse:.4g}; "
            "check which way is better, or the probe"
        )


def check_lengths(rows: Sequence[np.ndarray], longest: int, prompts: Sequence[Prompt], key: str) -> None:
    """Raise InputError where a text is longer than its model takes."""
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row) > longest:
            raise InputError(
                f"{key}: prompt {prompt.id!r} with a response has {len(row)} tokens in the scorer's template "
                f"and {longest} fit its model; shorten it, or lower sample.max_new_tokens"
            )


def check_finite(values: np.ndarray, responses: Responses, key: str) -> None:
    """Raise InputError, naming scorer and rows, where a score is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        rows = ", ".join(f"prompt {responses.prompts.prompts[n].id!r} response {k}" for n, k in bad[:3])
        more = ", …" if len(bad) > 3 else ""
        raise InputError(
            f"{key}: {len(bad)} scores are NaN or infinite ({rows}{more}); mend the scorer or its input"
        )

"""Log-odds of "not offensive" by the linear classifier of alt-profanity-check."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from cann_jax.files.errors import InputError
from cann_jax.scorers.base import Context, ProbedKind, Scored, TextScorer

PACKAGE = "alt-profanity-check"


@dataclass(frozen=True, kw_only=True)
class InoffensiveScorer(ProbedKind):
    """Log-odds of "not offensive" by alt-profanity-check; higher is better.

    Args:
        clip: Probabilities are clipped to [clip, 1 − clip] and the clips counted.
    """

    kind: Literal["inoffensive"] = "inoffensive"
    clip: Annotated[float, Interval(gt=0, lt=0.5)] = 1e-6

    def open(self, context: Context) -> "Inoffensive":
        try:
            import profanity_check  # noqa: F401
        except ImportError:
            fix = f"run: pip install {PACKAGE}"
            raise InputError(f"{context.key}: {PACKAGE} is not installed; {fix}") from None
        return Inoffensive(self)

    def identity(self, context: Context) -> dict[str, str]:
        try:
            return {context.key: importlib.metadata.version(PACKAGE)}
        except importlib.metadata.PackageNotFoundError:
            return {context.key: "not installed"}


@dataclass(frozen=True)
class Inoffensive(TextScorer):
    """Score ln((1 − p)/p) with p = P(offensive | response).

    The classifier returns exactly 0 or 1 at times, whose log-odds are infinite: p is clipped, and counted.
    """

    config: InoffensiveScorer

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        from profanity_check import predict_prob

        offensive = np.asarray(predict_prob(list(responses)), np.float64)
        clipped = np.clip(offensive, self.config.clip, 1 - self.config.clip)
        values = np.log1p(-clipped) - np.log(clipped)
        return Scored(values.astype(np.float32), {"clipped": int(np.sum(clipped != offensive))})

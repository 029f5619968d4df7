"""Log-odds of "not offensive" by the linear classifier of alt-profanity-check."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cann_jax.config.scorers import InoffensiveScorer
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.scorers.base import Scored, run_probe, score_flat


@dataclass(frozen=True)
class Inoffensive:
    """ln((1 − p)/p) with p = P(offensive | response); higher is better.

    The classifier returns exactly 0 or 1 at times, whose log-odds are infinite: p is clipped, and counted.
    """

    config: InoffensiveScorer

    @classmethod
    def load(cls, config: InoffensiveScorer, key: str) -> "Inoffensive":
        """Raises InputError where the package is missing or the probe fails."""
        try:
            import profanity_check  # noqa: F401
        except ImportError:
            raise InputError(
                f"{key}: alt-profanity-check is not installed; run: pip install 'cann-jax[inoffensive]'"
            ) from None
        scorer = cls(config)
        run_probe(scorer, config.probe, key)
        return scorer

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        return score_flat(self, responses)

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        from profanity_check import predict_prob

        offensive = np.asarray(predict_prob(list(responses)), np.float64)
        clipped = np.clip(offensive, self.config.clip, 1 - self.config.clip)
        values = np.log1p(-clipped) - np.log(clipped)
        return Scored(values.astype(np.float32), {"clipped": int(np.sum(clipped != offensive))})

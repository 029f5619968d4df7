"""The policy that draws several responses of the reference and keeps one of them by its scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cann_jax.core.dual import tilted_weights
from cann_jax.core.scores import Scores
from cann_jax.data.responses import Responses
from cann_jax.run.outputs import read_dual, scores_to_tilt
from cann_jax.run.policies import Draw, Sampled, sample_reference
from cann_jax.run.run import Run
from cann_jax.run.scorers import Scorers

SEED = 4_000_037  # times the number of the response, added to the draw's: no two choose among the same ones


def resample_policy(run: Run, scorers: Scorers, draw: Draw, name: str) -> Sampled:
    """Sample π_λ as K samples of the reference tell it: one of each K, by the weights w = softmax(r_λ/β).

    K is ``sample.responses``, as in the dual. The log-prob of a response is ln π_ref + ln(K·w), so that the
    KL is that of the weights to a uniform choice, as in the dual, and bounds that of the policy itself.
    """
    count = run.config.sample.responses
    parts = []
    for number in range(draw.responses):
        own = replace(draw, responses=count, seed=draw.seed + SEED * (number + 1))
        found = sample_reference(run, scorers, own, f"{name}-{number:02d}")
        parts.append(_kept(run, found, np.random.default_rng([own.seed, 3])))
    names = parts[0].scores
    return Sampled(
        _beside([part.responses for part in parts]),
        np.concatenate([part.reference_logps for part in parts], 1),
        {key: np.concatenate([part.scores[key] for part in parts], 1) for key in names},
    )


def _kept(run: Run, found: Sampled, rng: np.random.Generator) -> Sampled:
    """Return one response of each prompt's K."""
    dual, beta = read_dual(run), run.config.dual.beta
    scores = scores_to_tilt(run, found.scores, found.responses.groups())
    summed = replace(scores, reward=dual.reward_weight * scores.reward)
    weights = choice_weights(summed, dual.ordered(run.config), beta)
    columns = choices(weights, rng)
    chosen, rows = found.responses.of_columns(columns), np.arange(len(columns))[:, None]
    logps = found.reference_logps[rows, columns]
    gained = np.log(weights.shape[1] * weights[rows, columns])
    return Sampled(
        replace(chosen, logps=logps + gained.astype(np.float32)),
        logps,
        {name: values[rows, columns] for name, values in found.scores.items()},
    )


def choice_weights(scores: Scores, multipliers: np.ndarray, beta: float) -> np.ndarray:
    """Return the weights (N, K), float64, that sum to one for each prompt."""
    weights = np.asarray(tilted_weights(multipliers, scores, beta), np.float64)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def choices(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (N, 1) an index drawn by the weights (N, K) of each prompt."""
    below = np.cumsum(weights, axis=1) <= rng.random((len(weights), 1))
    return np.asarray(np.minimum(below.sum(1, keepdims=True), weights.shape[1] - 1))


def _beside(parts: Sequence[Responses]) -> Responses:
    """Return the responses of all parts to the same prompts."""
    names = ("tokens", "lengths", "stopped", "logps")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts], 1) for name in names}
    texts = [[text for row in rows for text in row] for rows in zip(*(p.texts for p in parts), strict=True)]
    return Responses(parts[0].prompts, texts=texts, **arrays)

"""What training can reach: the dual on what features tell of the scores, with a forecast."""

import dataclasses
import enum
from collections.abc import Sequence

import jax
import numpy as np

from cann_jax.analysis.wording import short_of
from cann_jax.core.arrays import Array
from cann_jax.core.attainable import Attainable, solve_attainable
from cann_jax.core.exploration.forecast import (
    AttainableIntervals,
    Forecast,
    attainable_intervals,
    forecast,
)
from cann_jax.core.features import FeatureTable, standardise_features
from cann_jax.core.prediction import folds_of, predict_scores
from cann_jax.core.problem import Constraint, Problem
from cann_jax.files.errors import named


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a policy reaches that tells responses apart as far as their features do.

    Attributes:
        attainable: λ at which it meets the margins, its ceilings, and the predicted scores.
        intervals: How sure these are; None where they were left out.
        forecast: What it does at that λ; None where no λ meets the margins.
        plug_in: What it does at the λ of the scores themselves; None where that is not finite.
    """

    attainable: Attainable
    intervals: AttainableIntervals | None
    forecast: Forecast | None
    plug_in: Forecast | None

    @property
    def reachable(self) -> bool:
        """Whether the margins are within what the features tell."""
        return bool(self.attainable.converged)


class Shortfall(enum.StrEnum):
    """Why no λ was found to meet margins that the sample can reach, as the verdict says it."""

    ABOVE = "above what this model can tell"
    TOGETHER = "together above what this model can tell"
    UNSOLVED = "each within what this model can tell, but the solver did not converge"


_MESSAGES = {
    Shortfall.ABOVE: (
        "reachable on the sample, but above what this model can tell of unseen prompts",
        "ask for less, sample more prompts, or use a larger model",
    ),
    Shortfall.TOGETHER: (
        "reachable on the sample, but together above what this model can tell of unseen prompts",
        "ask for less of one of them, sample more prompts, or use a larger model",
    ),
    Shortfall.UNSOLVED: (
        "no multipliers that training could use were found, because the solver did not converge",
        "ask for slightly less, or raise beta",
    ),
}


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a problem's responses, and how they are used.

    Attributes:
        values: ``(prompts, responses, F)``.
        folds: Parts of the prompts, each predicted from the others.
        seed: Seed of that split.
        key: Name of the setting or flag of ``folds``, for messages.
    """

    values: FeatureTable
    folds: int = 8
    seed: int = 0
    key: str = "dual.folds"


def find_reach(
    problem: Problem,
    features: Features,
    beta: float,
    multipliers: np.ndarray,
    confidence: float,
    resamples: int,
    seed: int,
) -> Reach:
    """Return what training can reach of a problem.

    Args:
        problem: The problem.
        features: Features of its responses.
        beta: β.
        multipliers: λ* (m,) of the dual on the scores themselves.
        confidence: Level of the intervals.
        resamples: Bootstrap resamples; 0 leaves the intervals of λ and of the ceilings out.
        seed: Their seed.

    Raises:
        InputError: Fewer prompts than folds, or features that are not finite or do not fit the scores.
    """
    scores = problem.scores
    with named(features.key):
        folds = folds_of(len(scores.reward), features.folds, features.seed)
    values = standardise_features(features.values, scores.mask)
    predicted = predict_scores(values, scores, folds, members=problem.targets.members)
    found = jax.device_get(solve_attainable(scores, predicted, problem.margins, beta))

    intervals = None
    if resamples:
        intervals = attainable_intervals(scores, found, problem.targets, beta, resamples, seed, confidence)

    def forecast_at(multipliers: np.ndarray) -> Forecast | None:
        if not np.all(np.isfinite(multipliers)):
            return None
        return forecast(scores, predicted, problem.targets, multipliers, beta, confidence)

    own = forecast_at(np.asarray(found.multipliers)) if found.converged else None
    return Reach(found, intervals, own, forecast_at(multipliers))


def shortfall(margins: np.ndarray, found: Attainable) -> tuple[Shortfall, np.ndarray]:
    """Return why no λ was found, and the indices of the constraints that it is about."""
    over = np.flatnonzero(margins > np.asarray(found.ceiling))
    if len(over):
        return Shortfall.ABOVE, over
    multipliers = np.asarray(found.multipliers)
    active = np.flatnonzero(multipliers > 0)
    if len(active) > 1 and np.any(np.isinf(multipliers)):
        return Shortfall.TOGETHER, active
    return Shortfall.UNSOLVED, np.arange(len(margins))


def shortfall_message(
    constraints: Sequence[Constraint], margins: np.ndarray, baseline: Array, found: Attainable
) -> str:
    """Return a line that says why no λ was found, with margins and ceilings, and what to do.

    Args:
        constraints: The constraints; levels and shares are said as they were asked.
        margins: ``(m,)``.
        baseline: ``(m,)``, E_ref[g].
        found: What the features tell.
    """
    why, about = shortfall(margins, found)
    problem, remedy = _MESSAGES[why]
    parts, plain = [], why != Shortfall.UNSOLVED
    for j in about.tolist():
        if constraints[j].margin is None:
            best = "within the model's reach"
            parts.append(short_of(constraints[j], float(baseline[j]), float(found.ceiling[j]), best))
            plain = False
        else:
            parts.append(f"{constraints[j].label} {margins[j]:+.4g} (ceiling {found.ceiling[j]:+.4g})")
    subject = f"margin{'s' * (why == Shortfall.TOGETHER)} " if plain else ""
    return f"{subject}{problem}: {', '.join(parts)}; {remedy}"

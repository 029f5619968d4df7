"""What K responses a prompt tell about λ*: the effective sample, and a correction of the bias at finite K.

The tilted policy lives on K points, so KL ≤ ln K, and λ̂ is biased: up for demanding margins, because the
few best responses must carry the tilt. The bias is measured by solving again on halves and quarters of
each prompt's responses and extrapolated to K = ∞.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import required_margins
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import on_host
from cann_jax.core.scores import Scores, normalised_prompt_weights, reference_mean
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import standardise

STRAINED = 0.7  # share of ln K beyond which K responses no longer represent the policy that is asked for
FEWEST = 32  # responses a prompt; with 10 (a real run) it corrected λ* = 2.87 to 0, and 2.87 proved right
PARTS = np.array([(2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)])  # (step, first): halves, quarters
STEEPEST, FLATTEST = 2.0, 1.4  # the bias shrinks as K^-1 at best, and slower the heavier the tilt


class KLimit(NamedTuple):
    """KL of the tilted policy against ln K, their ratio, and whether it is too much for K responses."""

    kl: Array
    log_count: float
    share: Array
    strained: Array


@dataclasses.dataclass(frozen=True)
class Correction:
    """λ̂ extrapolated to K = ∞.

    Attributes:
        multipliers: ``(m,)``, corrected; the plug-in's own where ``reason`` is not empty.
        halves: ``(m,)``, mean λ̂ of the two halves of the responses.
        quarters: ``(m,)``, mean λ̂ of the four quarters.
        reason: Why no correction is given; empty where one is.
    """

    multipliers: np.ndarray
    halves: np.ndarray
    quarters: np.ndarray
    reason: str


def kl_limit(scores: Scores, solution: DualSolution) -> KLimit:
    """Return how near the tilted policy comes to best-of-K."""
    weights = np.asarray(normalised_prompt_weights(scores))
    return limit_of(solution.kl, float(weights @ np.log(_responses(scores))))


def limit_of(kl: Array, log_count: float) -> KLimit:
    """Return how much of E_x ln K_x, ``log_count``, a KL is."""
    share = kl / max(log_count, 1e-30)
    return KLimit(kl, log_count, share, share > STRAINED)


def _responses(scores: Scores) -> np.ndarray:
    """Return the number of responses of each prompt ``(prompts,)``."""
    if scores.mask is None:
        return np.full(scores.reward.shape[0], scores.reward.shape[1])
    return np.asarray(np.maximum(np.asarray(scores.mask).sum(-1), 1))


@on_host
def correct_multipliers(
    scores: Scores, margins: ArrayLike | Mapping[str, float], beta: ArrayLike, solution: DualSolution
) -> Correction:
    """Remove most of the finite-K bias of λ̂, or decline with a reason.

    With λ̂ averaged over the halves (λ_{K/2}) and the quarters (λ_{K/4}) of each prompt's responses, the
    geometric (Aitken) extrapolation λ_K − (λ_{K/2} − λ_K)/(ρ − 1) with ρ = (λ_{K/4} − λ_{K/2})/(λ_{K/2} −
    λ_K), kept between the rates that a bias in K can have. ``solution`` is the plug-in's, at these settings.

    Runs on the host.
    """
    required = required_margins(margins, scores)
    plug_in = np.asarray(solution.multipliers)
    nothing = np.full_like(plug_in, np.nan)
    limit = kl_limit(scores, solution)
    # Where some prompts have few, their halves and quarters stand for nothing.
    responses = int(np.min(_responses(scores)[np.asarray(normalised_prompt_weights(scores)) > 0]))
    reason = ""
    if not bool(solution.converged):
        reason = "the plug-in has no solution to correct"
    elif responses < FEWEST:
        reason = f"{responses} responses a prompt, where there are fewest; {FEWEST} are needed"
    elif bool(limit.strained):
        reason = f"KL is {float(limit.share):.0%} of ln K: K is too small for this margin; sample more"
    if reason:
        return Correction(plug_in, nothing, nothing, reason)
    table = standardise(_weighing(scores))
    found = solve_lanes(table, lanes(table, required, beta, parts=PARTS), plug_in)
    parts = found.multipliers
    if np.any(np.all(np.isfinite(parts), axis=-1) & ~np.asarray(found.converged)):
        return Correction(plug_in, nothing, nothing, "the solver did not converge on a part of the responses")
    halves, quarters = np.mean(parts[:2], axis=0), np.mean(parts[2:], axis=0)
    if np.all(np.isfinite([halves, quarters])):
        return Correction(_extrapolate(plug_in, halves, quarters), halves, quarters, "")
    part = "half" if not np.all(np.isfinite(halves)) else "a quarter"
    reason = f"{part} of the responses cannot reach the margin; sample more"
    return Correction(plug_in, halves, quarters, reason)


def _weighing(scores: Scores) -> Scores:
    """Return the prompts that weigh something: of others, a quarter of the responses may be none."""
    kept = np.asarray(normalised_prompt_weights(scores)) > 0
    if kept.all():
        return scores
    baseline = reference_mean(scores)
    own: Scores = jax.tree.map(lambda leaf: leaf[kept], dataclasses.replace(scores, baseline=None))
    return dataclasses.replace(own, baseline=baseline)


def _extrapolate(whole: np.ndarray, halves: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    change = halves - whole
    rate = (quarters - halves) / np.where(change == 0, 1, change)
    rate = np.clip(np.where(np.isfinite(rate), rate, FLATTEST), FLATTEST, STEEPEST)
    return np.where(whole > 0, np.maximum(whole - change / (rate - 1), 0), 0)

"""The smallest scale of a trained step that meets every target.

With ℓ = log π_θ/π_ref on the reference's responses, softmax_k(s·ℓ) weighs them as the step scaled by s would
to first order (method of DeRa, Liu et al. 2024, at training's end instead of at decoding). That gives the
shape of improvement and KL in s; policies sampled at a few scales then correct its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.log_ratios import reweighted
from cann_jax.core.scores import Scores, normalised_prompt_weights
from cann_jax.core.table import standardise

# Of the K − 1 effective responses beyond one; with fewer, the weights tend to best-of-K. In the quickstart
# (K = 2) a share of .66 told +.108 where the policy gave +.145, and .31 told +.155 where it gave +.463.
ENOUGH = 0.9
POINTS = 801
NEAR = 1.5  # a try this factor away from a scale has e^-1/2 of the weight of one at it
# Improvement grows like s and KL like s² where the weights no longer tell.
IMPROVEMENT, KL = 1, 2


@dataclass(frozen=True)
class Shape:
    """Improvements and KL by scale, as importance weights on the reference's responses tell them.

    Args:
        scales: (n,), increasing from 0.
        improvements: (n, m), of each constraint.
        kl: (n,), nats.
        effective: (n,), share of the K − 1 responses beyond one that is effective.
        spreads: (m,), deviation of each constraint within a prompt.
    """

    scales: np.ndarray
    improvements: np.ndarray
    kl: np.ndarray
    effective: np.ndarray
    spreads: np.ndarray


@dataclass(frozen=True)
class Try:
    """What a policy sampled at one scale gave.

    Args:
        scale: The scale.
        improvement: (m,), mean of each constraint over the reference.
        error: (m,), their standard errors.
        kl: KL to the reference, nats.
        direction: (n,), coefficients of n adapters at scale 1; one adapter has 1.
    """

    scale: float
    improvement: np.ndarray
    error: np.ndarray
    kl: float
    direction: np.ndarray = field(default_factory=lambda: np.ones(1))

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients (n,) of the adapters."""
        return self.scale * self.direction


@dataclass(frozen=True)
class Scale:
    """A scale and what is expected there.

    Args:
        scale: The smallest scale that meets all targets within the limits; where the reference itself does,
            the largest up to 1; where none does, the one that comes nearest.
        met: Whether it meets them.
        improvement: (m,), expected.
        kl: Expected, nats.
    """

    scale: float
    met: bool
    improvement: np.ndarray
    kl: float


def shape(log_ratios: Array, scores: Scores, largest: float) -> Shape:
    """Return how improvement and KL grow with the scale, up to ``largest``.

    ``log_ratios (N, K)`` are ℓ of the unscaled step on the reference's responses, in nats, and ``scores`` are
    those of the same responses. Both are without the bias that K responses have at small scales.
    """
    scales = np.linspace(0, largest, POINTS)
    curves = _reweighted_means(log_ratios, scores, scales.astype(scores.dtype))
    improvements, kl, sizes = (np.asarray(curve, np.float64) for curve in curves)
    count = scores.reward.shape[1]
    # Deviations from the mean of K responses, themselves among them, have (K − 1)/K of the covariance.
    whole = count / max(count - 1, 1)
    spreads = np.asarray(standardise(scores).spreads.constraints)
    return Shape(scales, improvements * whole, kl * whole, (sizes - 1) / max(count - 1, 1), spreads)


@jit()
def _reweighted_means(log_ratios: Array, scores: Scores, scales: Array) -> tuple[Array, Array, Array]:
    weights = normalised_prompt_weights(scores)

    def at(scale: Array) -> tuple[Array, Array, Array]:
        found = reweighted(scale * log_ratios, scores)
        return weights @ found.improvement, weights @ found.kl, found.effective_sample_size

    curves: tuple[Array, Array, Array] = jax.lax.map(at, scales)
    return curves


def choose_scale(known: Shape, tries: Sequence[Try], targets: np.ndarray, kl_limit: float) -> Scale:
    """Return the smallest scale whose expected improvements reach ``targets (m,)`` within the KL limit.

    Where the reference meets them already, they do not ask for a step but allow one: the largest scale up
    to that of the training, 1, at which they are still met.
    """
    known = continued(known)
    scales = known.scales
    seen = [[(each.scale, each.improvement[j]) for each in tries] for j in range(len(targets))]
    curves = zip(known.improvements.T, seen, strict=True)
    improvements = np.stack([_corrected(scales, curve, own, IMPROVEMENT) for curve, own in curves], axis=1)
    # A sampled KL of nothing or less is noise, and must not lift the limit.
    kl = _corrected(scales, known.kl, [(t.scale, t.kl) for t in tries if t.kl > 0], KL)
    inside = kl <= kl_limit
    inside[0] = True
    reached = inside & np.all(improvements >= targets, axis=1)
    met = bool(reached.any())
    short = shortfall(known, improvements, targets)
    if met and reached[0]:
        best = int(np.flatnonzero(reached & (scales <= 1))[-1])
    else:
        best = int(np.argmax(reached)) if met else int(np.argmin(np.where(inside, short, np.inf)))
    return Scale(float(scales[best]), met, improvements[best], float(kl[best]))


def shortfall(known: Shape, improvements: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return by how much improvements (…, m) miss targets (m,) at most, over the constraints (…)."""
    # In their spreads: units differ, and a target may be 0.
    return np.asarray(np.max((targets - improvements) / known.spreads, axis=-1))


def continued(known: Shape) -> Shape:
    """Return the shape with its curves continued beyond what the weights tell."""
    scales = known.scales
    # The first step of the grid is always told: a slope of nothing would leave nothing to continue.
    last = max(int(np.flatnonzero(known.effective >= ENOUGH)[-1]), 1) if known.effective[0] > 0 else 1

    def on(curves: np.ndarray, power: int) -> np.ndarray:
        grown = (scales / scales[last]) ** power
        return np.where(scales <= scales[last], curves.T, np.multiply.outer(curves[last], grown)).T

    return replace(known, improvements=on(known.improvements, IMPROVEMENT), kl=on(known.kl, KL))


def _corrected(
    scales: np.ndarray, curve: np.ndarray, seen: list[tuple[float, float]], power: int
) -> np.ndarray:
    """Return a curve (n,) over the scales in the size seen; it grows like this power of the scale."""
    if not seen:
        return curve
    at = np.array([scale for scale, _ in seen])
    measured = np.array([value for _, value in seen])
    expected = np.interp(at, scales, curve)
    if np.sum(expected) <= 0:  # the weights were wrong about the sign: only what was seen tells
        return _through(scales, at, measured, power)
    # Weights fall with the distance, so that a far first try corrects no near second one.
    distance = np.abs(np.log(np.maximum(scales, 1e-6)[:, None] / at)) / np.log(NEAR)
    weights = np.exp(-0.5 * (distance - distance.min(1, keepdims=True)))
    return np.asarray(curve * (weights @ measured) / (weights @ expected))


def _through(scales: np.ndarray, at: np.ndarray, measured: np.ndarray, power: int) -> np.ndarray:
    """Return a curve (n,) from 0 through what was measured, grown like a power of the scale beyond it."""
    order = np.argsort(at)
    points, values = (np.concatenate([[0.0], each[order]]) for each in (at, measured))
    beyond = values[-1] * (scales / points[-1]) ** power
    return np.asarray(np.where(scales <= points[-1], np.interp(scales, points, values), beyond))

"""Which sum of several adapters meets every target: along a direction, and beside it where that falls short.

The adapters' log-ratios ℓ_i on the reference's responses tell, to first order, the log-ratios of every sum of
them: Σ c_i·ℓ_i. Along one direction of c the question is that of ``scale``. The directions that are looked at
begin with the dual's; where no scale along one meets all targets within the limits, the coefficients of those
constraints that fall short are raised. One adapter alone has one direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cann_jax.core.scale import Scale, Shape, Try, choose_scale, continued, shape, shortfall
from cann_jax.core.scores import Scores

RAISED, TIMES = 2**0.5, 8  # a coefficient is raised by this factor, so often at most: to its sixteenfold
FLOOR = 1 / 8  # of the largest coefficient: from there one begins that the dual left at nothing


@dataclass(frozen=True)
class Setting:
    """Coefficients of adapters, and what is expected of their sum.

    Args:
        direction: (n,), at scale 1.
        scale: The scale along it.
    """

    direction: np.ndarray
    scale: Scale

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients (n,) of the adapters."""
        return self.scale.scale * self.direction


@dataclass(frozen=True)
class Dial:
    """What the reference's responses tell of sums of adapters.

    Args:
        log_ratios: (N, K, n), ℓ_i of each adapter by itself, nats.
        scores: Scores of the same responses.
        largest: Largest scale.
    """

    log_ratios: np.ndarray
    scores: Scores
    largest: float
    _shapes: dict[bytes, Shape] = field(default_factory=dict)

    def along(self, direction: np.ndarray) -> Shape:
        """Return how improvements and KL grow with the scale along a direction (n,)."""
        key = direction.tobytes()
        if key not in self._shapes:
            total = self.log_ratios @ direction.astype(self.log_ratios.dtype)
            self._shapes[key] = shape(total, self.scores, self.largest)
        return self._shapes[key]

    def choose(
        self, start: np.ndarray, tries: Sequence[Try], targets: np.ndarray, kl_limit: float
    ) -> Setting:
        """Return the setting nearest to a direction that meets the targets (m,), at its smallest scale.

        Args:
            start: (n,), the direction to begin with; with more than one adapter, the first is the reward's
                and the others are the constraints', in their order.
            tries: What policies that were sampled gave, in any direction.
            targets: (m,), improvements to reach.
            kl_limit: As in ``choose_scale``.

        Where none meets them, the setting that comes nearest.
        """
        direction, best, least = start, None, np.inf
        for _ in range(TIMES * (len(start) - 1) + 1):
            known = self.along(direction)
            carried = [self._carried(each, direction) for each in tries]
            found = Setting(direction, choose_scale(known, carried, targets, kl_limit))
            if found.scale.met:
                return found
            missed = float(shortfall(known, found.scale.improvement, targets))
            if best is None or missed < least:
                best, least = found, missed
            direction = _raised(direction, found.scale.improvement < targets)
        assert best is not None, "one direction at least was looked at"
        return best

    def _carried(self, seen: Try, direction: np.ndarray) -> Try:
        """Return a try as one in this direction: equally far, and as far from what the weights told."""
        if np.array_equal(seen.direction, direction):
            return seen
        own, here = continued(self.along(seen.direction)), continued(self.along(direction))
        told = np.interp(seen.scale, own.scales, own.kl)
        scale = float(np.interp(told, here.kl, here.scales))
        missed = seen.improvement - _at(own, seen.scale)
        return Try(scale, _at(here, scale) + missed, seen.error, seen.kl, direction)


def _at(known: Shape, scale: float) -> np.ndarray:
    return np.array([np.interp(scale, known.scales, curve) for curve in known.improvements.T])


def _raised(direction: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Return the direction with larger coefficients of those constraints (m,) that are short."""
    if len(direction) == 1:
        return direction
    own = direction[1:]
    return np.concatenate(
        [direction[:1], np.where(short, np.maximum(RAISED * own, FLOOR * direction.max()), own)]
    )

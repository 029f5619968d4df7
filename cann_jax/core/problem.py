"""Constraints as users state them, and the problem that they make with a table of scores."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.scores import Scores, normalised_prompt_weights, reference_mean


@dataclasses.dataclass(frozen=True)
class Constraint:
    """One constraint as a user states it; exactly one of ``margin``, ``at_least`` and ``max_unsafe``.

    Attributes:
        name: Key of its scores.
        margin: Improvement of the mean over the reference, in the score's units.
        at_least: Level of the mean, in the score's units.
        max_unsafe: δ in [0, 1): largest share of responses that score under ``unsafe_below``.
        unsafe_below: A response is unsafe where its score is lower.
        group: Name of the group of prompts that it is about; None: all prompts.
        clip: (low, high), bounds that scores are cut to first; None: none.
    """

    name: str
    margin: float | None = None
    at_least: float | None = None
    max_unsafe: float | None = None
    unsafe_below: float = 0.0
    group: str | None = None
    clip: tuple[float, float] | None = None

    @property
    def target(self) -> float:
        """The margin, or the level in constraints on a level."""
        if self.max_unsafe is not None:
            return 1 - self.max_unsafe
        target = self.margin if self.margin is not None else self.at_least
        assert target is not None, "a constraint has a target"
        return target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """Targets of all constraints; margins follow once prompts have their weights.

    Attributes:
        values: ``(m,)``, margins or levels; like all of them a NumPy or a JAX array.
        is_level: ``(m,)`` bool, True where ``values`` is a level.
        members: ``(prompts, m)``, 1 in the constraint's group; None: no constraint has a group.
        shares: ``(m,)``, the group's share of the prompts that its scores were divided by.
    """

    values: Array
    is_level: Array
    members: Array | None
    shares: Array

    def rescale(self, weights: Array) -> Array:
        """Return the factor ``(m,)`` that makes prepared scores the group's own under other weights.

        Args:
            weights: ``(prompts,)``, summing to one; they may have moved the group's share.
        """
        if self.members is None:
            return self.shares
        share = weights @ self.members
        return self.shares / (share + (share <= 0) * self.shares)

    def margins(self, weights: Array, baseline: Array) -> Array:
        """Return b ``(m,)`` for prompt weights ``(prompts,)`` and prepared E_ref[g] ``(m,)`` under them.

        Operators only, so that leading axes of lanes broadcast, and host arrays stay on the host.
        """
        return self.values / self.rescale(weights) - self.is_level * baseline


def make_targets(
    constraints: Sequence[Constraint],
    dtype: np.dtype | type,
    members: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> Targets:
    """Return the targets of constraints, in order.

    Args:
        constraints: As users state them.
        dtype: Type of the scores.
        members: ``(prompts, m)``, 1 in each constraint's group; None: no constraint has a group.
        shares: ``(m,)``, each group's share of the prompts; None: all of them.
    """
    return Targets(
        values=np.asarray([c.target for c in constraints], dtype),
        is_level=np.asarray([c.margin is None for c in constraints]),
        members=None if members is None else np.asarray(members, dtype),
        shares=np.ones(len(constraints), dtype) if shares is None else np.asarray(shares, dtype),
    )


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prepared table, its targets and the constraints' names, in order."""

    scores: Scores
    targets: Targets
    names: tuple[str, ...]

    @property
    def margins(self) -> Array:
        """Margins b ``(m,)`` under the table's own prompt weights."""
        return self.targets.margins(*weights_and_baseline(self.scores))


@jax.jit
def weights_and_baseline(scores: Scores) -> tuple[Array, Array]:
    """Return the normalised prompt weights ``(prompts,)`` and E_ref[g] ``(m,)``."""
    return normalised_prompt_weights(scores), reference_mean(scores)


def margin_problem(scores: Scores, margins: float | Array, names: Sequence[str] | None = None) -> Problem:
    """Return the problem of a table as it is, with margins ``(m,)`` over the reference."""
    values = np.atleast_1d(np.asarray(margins, scores.reward.dtype))
    names = names or [f"constraint {j}" for j in range(scores.constraints.shape[-1])]
    constraints = [Constraint(name, margin=value) for name, value in zip(names, values, strict=True)]
    return Problem(scores, make_targets(constraints, scores.reward.dtype), tuple(names))

"""Constraints as users state them, and the problem that they make with a table of scores."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cann_jax.config.constraint import Requirement
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.scores import (
    TOO_FEW,
    Scores,
    effective_prompts,
    normalised_prompt_weights,
    reference_mean,
)
from cann_jax.files.errors import InputError


@dataclasses.dataclass(frozen=True)
class Constraint(Requirement):
    """What is required of one of the table's scores.

    Attributes:
        name: Key of its scores.
        cost: Whether less is better: the sign of its scores was changed, and so was that of its levels.
    """

    name: str
    cost: bool = False

    @property
    def label(self) -> str:
        """Its name where results are listed: NAME, or NAME@GROUP."""
        return self.name if self.group is None else f"{self.name}@{self.group}"

    @property
    def target(self) -> float:
        """The margin, or the level in constraints on a level.

        Raises:
            InputError: It is contradictory or impossible.
        """
        for field, problem in self.conflicts():
            raise InputError(f"constraint {self.name}: {' '.join(filter(None, (field, problem)))}")
        if self.max_unsafe is not None and not 0 <= self.max_unsafe < 1:
            problem = f"max_unsafe is {self.max_unsafe}; give a share in [0, 1)"
            raise InputError(f"constraint {self.name}: {problem}")
        level = self.at_least if self.max_unsafe is None else 1 - self.max_unsafe
        target = self.margin if level is None else level
        with np.errstate(over="ignore"):
            if target is None or not np.isfinite(np.float32(target)):
                raise InputError(f"constraint {self.name}: its target is not a finite number (float32)")
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

    @on_host
    def rescale(self, weights: Array) -> Array:
        """Return the factor ``(m,)`` that makes prepared scores the group's own under other weights.

        ``weights (prompts,)`` sum to one and may have moved the group's share. Runs on the host.
        """
        if self.members is None:
            return self.shares
        # In float64, as ``shares`` were made: float32's product was off by .1 % at 200,000 prompts.
        share = (np.asarray(weights, np.float64) @ self.members).astype(self.shares.dtype)
        return self.shares / (share + (share <= 0) * self.shares)

    @on_host
    def margins(self, weights: Array, baseline: Array) -> Array:
        """Return b ``(m,)`` for prompt weights ``(prompts,)`` and prepared E_ref[g] ``(m,)`` under them.

        Leading axes of lanes broadcast. Runs on the host.
        """
        return self.values / self.rescale(weights) - self.is_level * baseline


def make_targets(
    constraints: Sequence[Constraint],
    dtype: np.dtype | type,
    members: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> Targets:
    """Return the targets of constraints, in order; ``members`` and ``shares`` as in ``Targets``.

    Raises:
        InputError: One is contradictory or impossible.
    """
    return Targets(
        values=np.asarray([c.target for c in constraints], dtype),
        is_level=np.asarray([c.margin is None for c in constraints]),
        members=None if members is None else np.asarray(members, dtype),
        shares=np.ones(len(constraints), dtype) if shares is None else np.asarray(shares, dtype),
    )


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prepared table, its targets and the constraints that they state, in order."""

    scores: Scores
    targets: Targets
    constraints: tuple[Constraint, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The constraints' labels."""
        return tuple(constraint.label for constraint in self.constraints)

    @property
    def margins(self) -> Array:
        """Margins b ``(m,)`` under the table's own prompt weights."""
        return self.targets.margins(*jax.device_get(weights_and_baseline(self.scores)))

    def about(self, constraints: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the prompts ``(prompts,)`` bool that some of the constraints, by number, are about."""
        members = self.targets.members
        if members is None:
            return np.ones(self.scores.reward.shape[0], bool)
        return np.asarray(np.any(np.asarray(members)[:, constraints] > 0, axis=1))

    @property
    def tells_errors(self) -> bool:
        """Whether each constraint is about as many effective prompts as an error needs."""
        prompts = effective_prompts(weights_and_baseline(self.scores)[0], self.targets.members)
        return bool(np.all(prompts >= TOO_FEW))


@jit()
def weights_and_baseline(scores: Scores) -> tuple[Array, Array]:
    """Return the normalised prompt weights ``(prompts,)`` and E_ref[g] ``(m,)``."""
    return normalised_prompt_weights(scores), reference_mean(scores)

"""Constraints as people state them, turned into a plain table: all of them are data for the one solver.

* A constraint on a group G of prompts with share p: g ← 1{x ∈ G}/p·g, so that E[g] is the group's own mean.
  The factor stays in the prepared scores, hence in r_λ and in the labels.
* A chance constraint P(unsafe) ≤ δ: g ← 1{safe}, and its level must be at least 1 − δ.
* A level ``at_least: t``: the margin is t − E_ref[g], estimated anew wherever prompts are reweighed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cann_jax.core.scores import Scores, check_scores, normalised_prompt_weights, reference_mean
from cann_jax.files.errors import InputError


@dataclasses.dataclass(frozen=True)
class Constraint:
    """One constraint as a user states it; exactly one of ``margin``, ``at_least`` and ``max_unsafe``.

    Attributes:
        name: key of its scores.
        margin: improvement of the mean over the reference, in the score's units.
        at_least: level of the mean, in the score's units.
        max_unsafe: δ in [0, 1): largest share of responses that score under ``unsafe_below``.
        unsafe_below: a response is unsafe where its score is lower.
        group: name of the group of prompts that it is about; None: all prompts.
        clip: (low, high), bounds that scores are cut to first; None: none.
    """

    name: str
    margin: float | None = None
    at_least: float | None = None
    max_unsafe: float | None = None
    unsafe_below: float = 0.0
    group: str | None = None
    clip: tuple[float, float] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """What is asked of each constraint; margins follow once prompts have their weights.

    Attributes:
        values: ``(m,)``, margins or levels; like all of them a NumPy or a JAX array.
        is_level: ``(m,)`` bool, True where ``values`` is a level.
        members: ``(prompts, m)``, 1 in the constraint's group; None: no constraint has a group.
        shares: ``(m,)``, the group's share of the prompts that its scores were divided by.
    """

    values: jax.Array
    is_level: jax.Array
    members: jax.Array | None
    shares: jax.Array

    def rescale(self, weights: jax.Array) -> jax.Array:
        """``(m,)``: prepared scores times this are the group's own, under weights that moved its share.

        Args:
            weights: ``(prompts,)``, summing to one.
        """
        if self.members is None:
            return self.shares
        share = weights @ self.members
        return self.shares / (share + (share <= 0) * self.shares)

    def margins(self, weights: jax.Array, baseline: jax.Array) -> jax.Array:
        """b ``(m,)`` in the prepared scores' units, for prompt weights and E_ref[g] ``(m,)`` under them.

        Operators only, so that leading axes of lanes broadcast, and host arrays stay on the host.
        """
        return self.values / self.rescale(weights) - self.is_level * baseline


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prepared table, its targets and the constraints' names, in order."""

    scores: Scores
    targets: Targets
    names: tuple[str, ...]

    @property
    def margins(self) -> jax.Array:
        """b ``(m,)`` under the table's own prompt weights."""
        return self.targets.margins(*_weights_and_baseline(self.scores))


@jax.jit
def _weights_and_baseline(scores: Scores) -> tuple[jax.Array, jax.Array]:
    return normalised_prompt_weights(scores), reference_mean(scores)


def margin_problem(scores: Scores, margins: jax.Array, names: Sequence[str] | None = None) -> Problem:
    """A table as it is, with margins ``(m,)`` over the reference."""
    margins = np.atleast_1d(np.asarray(margins, scores.reward.dtype))
    count = scores.constraints.shape[-1]
    targets = Targets(margins, np.zeros(count, bool), None, np.ones_like(margins))
    return Problem(scores, targets, tuple(names or (f"constraint {j}" for j in range(count))))


def prepare(
    reward: np.ndarray,
    constraint_scores: Mapping[str, np.ndarray],
    constraints: Sequence[Constraint],
    groups: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
    prompt_weights: np.ndarray | None = None,
    reward_clip: tuple[float, float] | None = None,
) -> Problem:
    """Build the solver's table from raw scores (formulas: module).

    Args:
        reward: ``(prompts, responses)``, larger is better.
        constraint_scores: name → ``(prompts, responses)``, larger is better.
        constraints: what to ask, in order; several may share a name's scores through different groups.
        groups: name → ``(prompts,)`` bool.
        mask, prompt_weights: as in ``Scores``.
        reward_clip: (low, high) for the reward.

    Raises:
        InputError: an unknown name or group, an empty group, contradictory targets, or scores that
            ``check_scores`` refuses.
    """
    if not constraints:
        raise InputError("constraints: none is given; ask for at least one margin")
    groups = groups or {}
    for constraint in constraints:
        check_constraint(constraint, constraint_scores, groups)
    raw = np.stack([np.asarray(constraint_scores[c.name]) for c in constraints], axis=-1)
    table = Scores(_clipped(np.asarray(reward), reward_clip), raw, mask, prompt_weights)
    names = tuple(c.name if c.group is None else f"{c.name}@{c.group}" for c in constraints)
    check_scores(table, names)
    weights = np.asarray(_weights_and_baseline(table)[0])
    members = np.stack([_membership(c, groups, len(raw)) for c in constraints], axis=-1)
    shares = weights @ members
    for name, share in zip(names, shares, strict=True):
        if not share > 0:
            raise InputError(f"group of {name}: no prompt of any weight is in it; check its column")
    prepared = [
        group_scores(constraint_values(c, raw[..., j]), members[:, j], shares[j])
        for j, c in enumerate(constraints)
    ]
    scores = dataclasses.replace(table, constraints=np.stack(prepared, axis=-1))
    scores = jax.device_put(scores)
    return Problem(scores, _targets(constraints, members, shares, scores.reward.dtype), names)


def check_constraint(constraint: Constraint, known: Mapping, groups: Mapping) -> None:
    """Refuse a constraint that cannot be meant.

    Raises:
        InputError: naming the constraint and the mend.
    """
    name = constraint.name
    if name not in known:
        raise InputError(f"constraint {name}: no such scores; did you mean {_nearest(name, known)}?")
    if constraint.group is not None and constraint.group not in groups:
        hint = f"did you mean {_nearest(constraint.group, groups)}?" if groups else "the table has no groups"
        raise InputError(f"constraint {name}: no group {constraint.group}; {hint}")
    given = [constraint.margin, constraint.at_least, constraint.max_unsafe]
    if sum(value is not None for value in given) != 1:
        raise InputError(f"constraint {name}: give exactly one of margin, at_least and max_unsafe")
    if not all(np.isfinite(value) for value in given if value is not None):
        raise InputError(f"constraint {name}: its target is not a finite number")
    if constraint.max_unsafe is not None and not 0 <= constraint.max_unsafe < 1:
        raise InputError(f"constraint {name}: max_unsafe is {constraint.max_unsafe}; give a share in [0, 1)")


def constraint_values(constraint: Constraint, raw: np.ndarray) -> np.ndarray:
    """g from raw scores of any shape: clipped, and 1{safe} for a chance constraint."""
    values = _clipped(raw, constraint.clip, constraint.name)
    if constraint.max_unsafe is None:
        return values
    return (values >= constraint.unsafe_below).astype(raw.dtype)


def constraint_means(constraint: Constraint, raw: np.ndarray, groups: Sequence[str | None]) -> np.ndarray:
    """``(n,)`` means of g over the responses of each prompt of the constraint's group, in its own units.

    Args:
        constraint: what is asked.
        raw: ``(prompts, responses)`` scores.
        groups: the group of each prompt.
    """
    means = constraint_values(constraint, raw).mean(1)
    return means if constraint.group is None else means[np.array(groups, object) == constraint.group]


def group_scores(values: np.ndarray, members: np.ndarray, share: float) -> np.ndarray:
    """1{x ∈ G}/p·g: ``(prompts, responses)`` scores, ``(prompts,)`` membership and the group's share p."""
    return (values * (members / share)[:, None]).astype(values.dtype)


def _clipped(values: np.ndarray, bounds: tuple[float, float] | None, name: str = "reward") -> np.ndarray:
    if bounds is None:
        return values
    if not bounds[0] < bounds[1]:
        raise InputError(f"clip of {name}: {bounds[0]} is not below {bounds[1]}; give low, high")
    return np.clip(values, *bounds)


def _membership(constraint: Constraint, groups: Mapping[str, np.ndarray], prompts: int) -> np.ndarray:
    if constraint.group is None:
        return np.ones(prompts)
    members = np.asarray(groups[constraint.group], float)
    if members.shape != (prompts,):
        raise InputError(f"group {constraint.group} has shape {members.shape}; give ({prompts},)")
    return members


def target_values(constraints: Sequence[Constraint]) -> list[float]:
    """The margin, or the level where one is asked for, of each constraint."""
    return [
        c.margin if c.margin is not None else c.at_least if c.at_least is not None else 1 - c.max_unsafe
        for c in constraints
    ]


def _targets(constraints: Sequence[Constraint], members: np.ndarray, shares: np.ndarray, dtype) -> Targets:
    grouped = any(c.group is not None for c in constraints)
    return Targets(
        values=np.asarray(target_values(constraints), dtype),
        is_level=np.asarray([c.margin is None for c in constraints]),
        members=np.asarray(members, dtype) if grouped else None,
        shares=np.asarray(shares, dtype),
    )


def _nearest(word: str, words: Mapping) -> str:
    from cann_jax.config.schema import nearest  # pulls in the YAML parser, which only a mistake needs

    return nearest(word, words)

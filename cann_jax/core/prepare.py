"""Raw scores and constraints as users state them, turned into a plain table: all are data for the one solver.

* A constraint on a group G of prompts with share p: g ← 1{x ∈ G}/p·g, so that E[g] is the group's own mean.
  The factor stays in the prepared scores, hence in r_λ and in the labels.
* A chance constraint P(unsafe) ≤ δ: g ← 1{safe}, and its level must be at least 1 − δ.
* A level ``at_least: t``: the margin is t − E_ref[g], estimated anew wherever prompts are reweighed.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import jax
import numpy as np

from cann_jax.core.arrays import numbers
from cann_jax.core.compilation import on_host
from cann_jax.core.problem import Constraint, Problem, make_targets, weights_and_baseline
from cann_jax.core.scores import Scores, check_scores
from cann_jax.files.errors import InputError, hint, shown


@on_host
def prepare(
    reward: np.ndarray,
    constraint_scores: Mapping[str, np.ndarray],
    constraints: Sequence[Constraint],
    groups: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
    prompt_weights: np.ndarray | None = None,
    reward_clip: tuple[float, float] | None = None,
    shares: np.ndarray | None = None,
    varied: bool = True,
) -> Problem:
    """Return the problem that raw scores and constraints make (formulas: module).

    Runs on the host.

    Args:
        reward: ``(prompts, responses)``, larger is better.
        constraint_scores: Name → ``(prompts, responses)``, larger is better.
        constraints: In order; several may share a name's scores through different groups.
        groups: Name → ``(prompts,)`` bool.
        mask: As in ``Scores``.
        prompt_weights: As in ``Scores``.
        reward_clip: (low, high) for the reward.
        shares: ``(m,)`` the p by which g is divided; by default the share that each constraint's group has of
            these prompts.
        varied: As in ``check_scores``.

    Raises:
        InputError: An unknown name or group, an empty group, contradictory targets, or scores that
            ``check_scores`` refuses.
    """
    groups = groups or {}
    check_constraints(constraints)
    check_known(constraints, constraint_scores, groups)
    given = np.asarray(numbers("reward", reward))
    stacked = np.stack([_scores_of(c.name, constraint_scores, given.shape) for c in constraints], axis=-1)
    table = Scores(clipped(given, reward_clip), stacked, mask, prompt_weights)
    raw = np.asarray(table.constraints)  # in floating point: 1{x ∈ G}/p times an integer is none
    names = tuple(c.label for c in constraints)
    check_scores(table, names, varied=varied)
    members = memberships(constraints, groups, len(raw))
    if shares is None:
        shares = np.asarray(weights_and_baseline(table)[0]) @ members
    check_shares(names, shares)
    prepared = prepared_scores(constraints, raw, members / shares)
    scores = jax.device_put(dataclasses.replace(table, constraints=prepared))
    grouped = any(c.group is not None for c in constraints)
    targets = make_targets(constraints, scores.reward.dtype, members if grouped else None, shares)
    return Problem(scores, targets, tuple(constraints))


def check_constraints(constraints: Sequence[Constraint]) -> None:
    """Check that there are constraints, no two on the same scores and group, each with a possible target.

    Raises:
        InputError: One is at fault.
    """
    if isinstance(constraints, Constraint) or not all(isinstance(c, Constraint) for c in constraints):
        raise InputError(f"constraints: {shown(constraints)}; give a list of Constraint")
    if not constraints:
        raise InputError("constraints: none given; ask for at least one margin")
    labels = [c.label for c in constraints]
    for c in constraints:
        if labels.count(c.label) > 1:
            what = f"constraint {c.label}: {labels.count(c.label)} goals for the same scores"
            raise InputError(f"{what}; keep one, or give a copy of the scores another name")
        if c.clip is not None and not c.clip[0] < c.clip[1]:
            raise InputError(f"clip of {c.name}: {c.clip[0]} is not below {c.clip[1]}; give low, high")
        _ = c.target  # which raises what is wrong with it


def check_known(constraints: Sequence[Constraint], names: Collection[str], groups: Collection[str]) -> None:
    """Check that there are the scores and groups that constraints are about.

    Raises:
        InputError: There are not; the message names the nearest ones.
    """
    for c in constraints:
        if c.name not in names:
            raise InputError(f"constraint {c.name}: no such scores; {hint(c.name, names, 'scores')}")
        if c.group is not None and c.group not in groups:
            known = hint(c.group, groups, "groups") if groups else "the table has no groups"
            raise InputError(f"constraint {c.name}: no group {c.group}; {known}")


def check_shares(names: Sequence[str], shares: np.ndarray) -> None:
    """Check that each constraint's group has prompts of some weight.

    Raises:
        InputError: One has none.
    """
    for name, share in zip(names, shares, strict=True):
        if not share > 0:
            raise InputError(f"group of {name}: no prompt of any weight is in it; check its column")


def memberships(
    constraints: Sequence[Constraint], groups: Mapping[str, np.ndarray], prompts: int
) -> np.ndarray:
    """Return ``(prompts, m)``: 1 in the constraint's group, else 0."""
    return np.stack([_membership(c, groups, prompts) for c in constraints], axis=-1)


def prepared_scores(constraints: Sequence[Constraint], raw: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return g ``(prompts, responses, m)`` from raw scores of that shape and 1{x ∈ G}/p ``(prompts, m)``."""
    values = [
        (constraint_values(c, raw[..., j]) * factors[:, j, None]).astype(raw.dtype)
        for j, c in enumerate(constraints)
    ]
    return np.stack(values, axis=-1)


def constraint_values(constraint: Constraint, raw: np.ndarray) -> np.ndarray:
    """Return g from raw scores of any shape: clipped, and 1{safe} for a chance constraint."""
    values = clipped(raw, constraint.clip, constraint.name)
    if constraint.max_unsafe is None:
        return values
    return np.asarray(values >= constraint.unsafe_below, raw.dtype)


def group_values(constraint: Constraint, raw: np.ndarray, groups: Sequence[str | None]) -> np.ndarray:
    """Return g ``(n, responses)`` on the n prompts of the constraint's group, in its own units.

    ``raw (prompts, responses)`` are its scores, and ``groups`` holds the group of each prompt.
    """
    return np.asarray(constraint_values(constraint, raw)[in_group(constraint, groups)])


def in_group(constraint: Constraint, groups: Sequence[str | None]) -> np.ndarray:
    """Return which prompts ``(prompts,)`` the constraint is about, by the group of each."""
    return np.array([constraint.group in (None, group) for group in groups], bool)


def meets(constraint: Constraint, raw: np.ndarray, groups: Sequence[str | None]) -> np.ndarray:
    """Return which responses ``(prompts, responses)`` meet a constraint by themselves; arguments as above.

    Their own g has the level that is asked of the mean; an improvement is over the mean of ``raw``. Those to
    prompts outside the constraint's group have nothing to meet.
    """
    here = group_values(constraint, raw, groups)
    level = constraint.target + (np.mean(here) if constraint.margin is not None else 0.0)
    safe = np.asarray(constraint_values(constraint, raw) >= level)
    return np.asarray(safe | ~in_group(constraint, groups)[:, None])


def clipped(values: np.ndarray, bounds: tuple[float, float] | None, name: str = "reward") -> np.ndarray:
    """Return the values within bounds (low, high); all of them where there are none.

    Raises:
        InputError: The bounds do not fit together; ``name`` is that of the scores.
    """
    if bounds is None:
        return values
    if not bounds[0] < bounds[1]:
        raise InputError(f"clip of {name}: {bounds[0]} is not below {bounds[1]}; give low, high")
    return np.asarray(np.clip(values, *bounds))


def _scores_of(name: str, constraint_scores: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(numbers(name, constraint_scores[name]))
    if found.shape != shape:
        raise InputError(f"scores {name} have shape {found.shape}; give {shape}, like reward")
    return found


def _membership(constraint: Constraint, groups: Mapping[str, np.ndarray], prompts: int) -> np.ndarray:
    if constraint.group is None:
        return np.ones(prompts)
    members = np.asarray(numbers(f"group {constraint.group}", groups[constraint.group], float))
    if members.shape != (prompts,):
        raise InputError(f"group {constraint.group} has shape {members.shape}; give ({prompts},)")
    if not np.isin(members, (0, 1)).all():
        raise InputError(f"group {constraint.group} holds other than True and False; give ({prompts},) bool")
    return members

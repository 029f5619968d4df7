"""What λ* does to each group of prompts: whom it helps, and whom it harms."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cann_jax.analysis.constraints import group_members, group_names, groups_of
from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.means import Estimate, PromptMeans
from cann_jax.core.prepare import constraint_values
from cann_jax.core.problem import Constraint, Problem
from cann_jax.core.scores import normalised_prompt_weights, present


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of prompts, and the mean scores of their responses.

    Attributes:
        name: Its name.
        prompts: Number of its prompts that have weight.
        before: By score, the reward's first: the reference's mean.
        after: By score: the mean predicted at λ*.
        change: By score: the difference with its interval, infinite where too few prompts tell nothing of it.
    """

    name: str
    prompts: int
    before: dict[str, float]
    after: dict[str, float]
    change: dict[str, Estimate]


def by_group(
    problem: Problem,
    raw: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    multipliers: np.ndarray,
    beta: float,
    confidence: float,
    reward: str = "reward",
) -> list[Group]:
    """Return all prompts, each group of the columns, and the prompts of none, if there is a λ*.

    Args:
        problem: The problem.
        raw: Scores ``(prompts, responses)`` by name, of which those with a constraint on a group are needed.
        columns: Columns of groups, as in ``RawTable``.
        multipliers: λ* ``(m,)``.
        beta: β.
        confidence: Of the intervals.
        reward: The reward's name where a constraint is named "reward".
    """
    if not np.all(np.isfinite(multipliers)):
        return []
    scores, weights = problem.scores, np.asarray(normalised_prompt_weights(problem.scores), float)
    policy = np.asarray(tilted_weights(multipliers, scores, beta), float)
    there = present(scores)
    reference = there / np.maximum(there.sum(-1, keepdims=True), 1)
    bounded = _values(problem, raw)
    values = {reward_heading(problem.constraints, reward): np.asarray(scores.reward)} | bounded
    means = {
        name: [np.sum(np.where(there, own, 0) * each, axis=-1) for each in (reference, policy)]
        for name, own in values.items()
    }
    rows = [(name, own & (weights > 0)) for name, own in _rows(columns, len(weights))]
    return [_group(*row, weights, means, len(multipliers), confidence) for row in rows if row[1].any()]


def reward_heading(constraints: Sequence[Constraint], reward: str) -> str:
    """Return what the report calls the reward: the name of its column where a constraint is called so."""
    return reward if "reward" in map(_label, constraints) else "reward"


def _rows(columns: Mapping[str, np.ndarray], prompts: int) -> list[tuple[str, np.ndarray]]:
    """Return the name and the prompts ``(prompts,)`` bool of each row of the report."""
    everyone = np.ones(prompts, bool)
    if not columns:
        return [("all prompts", everyone)]
    found = group_members(columns, group_names({name: groups_of(own) for name, own in columns.items()}))
    grouped = np.any(list(found.values()), axis=0)
    return [("all prompts", everyone), *found.items(), ("no group", ~grouped)]


def _values(problem: Problem, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what constraints bound ``(prompts, responses)``, by name; one on a group counts for all."""
    found, prepared = {}, np.asarray(problem.scores.constraints)
    for j, constraint in enumerate(problem.constraints):
        own = (
            prepared[..., j]
            if constraint.group is None
            else constraint_values(constraint, raw[constraint.name])
        )
        found[_label(constraint)] = own
    return found


def _label(constraint: Constraint) -> str:
    if constraint.max_unsafe is None:
        return constraint.name
    level = f"<= {0.0 - constraint.unsafe_below:g}" if constraint.cost else f">= {constraint.unsafe_below:g}"
    return f"share of {constraint.name} {level}"


def _group(
    name: str,
    inside: np.ndarray,
    weights: np.ndarray,
    means: Mapping[str, Sequence[np.ndarray]],
    fitted: int,
    confidence: float,
) -> Group:
    own = weights[inside] / weights[inside].sum()
    prompts = PromptMeans(own, None, fitted, confidence)
    return Group(
        name=name,
        prompts=int(inside.sum()),
        before={score: float(own @ before[inside]) for score, (before, _) in means.items()},
        after={score: float(own @ after[inside]) for score, (_, after) in means.items()},
        change={
            score: prompts.estimate((after - before)[inside]) for score, (before, after) in means.items()
        },
    )

"""The score table: rewards and constraint scores of K responses to each of N prompts."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, accurate_sum, response_mean, slice_along
from cann_jax.core.compilation import jit
from cann_jax.core.display import display
from cann_jax.files.errors import InputError

ARRAYS = ("reward", "constraints", "mask", "prompt_weights", "baseline")


# Were names a part of the tree, JAX would compile anew for each, and trees of other names would not match.
@partial(jax.tree_util.register_dataclass, data_fields=ARRAYS, meta_fields=(), drop_fields=("names",))
@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of responses drawn from the reference policy; larger is better in all of them.

    Whole numbers and half precision become float32 (float64 where JAX uses that): margins and β take the
    scores' type, and β = 0.5 among integers would be 0.

    Attributes:
        reward: ``(prompts, responses)``, the reward r(x, y).
        constraints: ``(prompts, responses, m)``, the constraint scores g_j(x, y).
        mask: ``(prompts, responses)`` bool, False for missing responses; None: none is missing.
        prompt_weights: ``(prompts,)``, non-negative, any scale; None: all prompts weigh the same.
        baseline: ``(m,)``, E_ref[g_j] where it was estimated elsewhere; None: the table's own mean.
        names: The m constraints' names, for people; transformations and maps of the tree leave them out.
    """

    reward: Array
    constraints: Array
    mask: Array | None = None
    prompt_weights: Array | None = None
    baseline: Array | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("reward", "constraints", "prompt_weights", "baseline"):
            value = getattr(self, field)
            if isinstance(value, list | tuple):
                value = np.asarray(value)
            # Transformations of the tree put other things than arrays here, which are left as they are.
            if isinstance(value, Array) and not _is_wide(value.dtype):
                value = value.astype(jax.dtypes.canonicalize_dtype(float))
            object.__setattr__(self, field, value)
        if self.names is not None:
            count = self.constraints.shape[-1]
            if isinstance(self.names, str) or len(self.names) != count:
                raise InputError(f"names: {self.names!r} for {count} constraints; give a list of one each")
            object.__setattr__(self, "names", tuple(self.names))

    def __repr__(self) -> str:
        """Return shapes, names and the type: the numbers of a table fill pages."""
        given = ((field, getattr(self, field)) for field in ARRAYS)
        # Transformations of the tree put things without a shape here.
        parts = [f"{name} {getattr(value, 'shape', value)}" for name, value in given if value is not None]
        parts += [] if self.names is None else [f"names {self.names}"]
        parts += [str(self.reward.dtype)] if isinstance(self.reward, Array) else []
        return f"Scores({', '.join(parts)})"

    @classmethod
    def from_table(
        cls,
        table: Any,
        reward: str = "reward",
        constraints: Sequence[str] | None = None,
        *,
        cost: Sequence[str] = (),
        groups: Sequence[str] = (),
        prompt: str = "prompt",
        response: str = "response",
        prompt_weights: str | None = None,
        drop_missing: bool = False,
    ) -> "Scores":
        """Read a score table by the rules of the dual command (docs/dual.md), from the host.

        Prompts are in the order in which they first appear, and responses in the table's: a long frame's rows
        are at ``[pd.factorize(frame[prompt])[0], frame.groupby(prompt).cumcount()]`` of arrays ``(prompts,
        responses)``. Messages number rows from 1. The constraints' names stay with the scores.

        Args:
            table: A file (Parquet, CSV, TSV, JSON or npz), a pandas ``DataFrame``, or a table of Arrow.
            reward: Column of the reward.
            constraints: Columns of the constraints, in order; None takes every other column of numbers. A
                name ``safe@inviting`` is that score on one group of prompts.
            cost: Columns of which less is better; their sign is changed.
            groups: Prompt columns that name groups; ``group`` by default, where the table has it.
            prompt: Column of the prompts, in a table with a row for each response.
            response: Column of the responses, if there is one.
            prompt_weights: Column of prompt weights.
            drop_missing: Leave out, and warn of, rows that lack something, which else are an error.

        Raises:
            InputError: A column is missing or holds no numbers, or a row is at fault.
        """
        read = display("frames:scores_of")
        found: Scores = read(
            table,
            reward,
            constraints,
            cost=cost,
            groups=groups,
            prompt=prompt,
            response=response,
            prompt_weights=prompt_weights,
            drop_missing=drop_missing,
        )
        return found

    @property
    def dtype(self) -> np.dtype:
        """The type that JAX computes in: float32 for float64 arrays, unless ``jax_enable_x64`` is set."""
        return np.dtype(jax.dtypes.canonicalize_dtype(self.reward.dtype))


TOO_FEW = 2 - 1e-4  # effective prompts: one tells nothing of the others; weights in float32 sum to one nearly


def _is_wide(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize >= 4) or dtype == jax.dtypes.float0


@dataclasses.dataclass(frozen=True)
class ScoreSummary:
    """Counts of prompts with responses, of responses, and of prompts that do not inform the solution."""

    prompts: int
    responses: int
    single_response: int
    identical: int

    def __add__(self, other: "ScoreSummary") -> "ScoreSummary":
        """Return the counts of two parts of a table together."""
        return ScoreSummary(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )

    def check_varied(self) -> None:
        """Check that some prompt's responses do not all score the same.

        Raises:
            InputError: Those of every prompt do.
        """
        if self.identical and self.identical + self.single_response == self.prompts:
            raise InputError(
                "every prompt's responses score the same, so no weighting of them can improve anything; "
                "sample more varied responses or check the scorers"
            )


def in_order(margins: Mapping[str, float], scores: Scores) -> list[float]:
    """Return margins by name as a list in the order of the scores' constraints.

    Raises:
        InputError: The scores have no names, or other ones.
    """
    if scores.names is None:
        raise InputError(
            "margins: given by name, but the scores have no names; give a list, or names=(…) to Scores"
        )
    if margins.keys() != set(scores.names):
        given, names = ", ".join(map(str, margins)) or "none", ", ".join(scores.names)
        raise InputError(f"margins: given for {given}; the constraints are {names}: give each of them one")
    return [margins[name] for name in scores.names]


def constraint_names(m: int, names: Sequence[str] | None) -> list[str]:
    """Return the names of m constraints, their numbers by default.

    Raises:
        InputError: There are not m names.
    """
    found = [f"constraint {j}" for j in range(m)] if names is None else list(names)
    if len(found) != m:
        raise InputError(f"names: {len(found)} given for {m} constraints; give one each")
    return found


def check_is_scores(value: Any) -> None:
    """Check that a value is ``Scores``, and no table of another kind, and finite where it is concrete.

    Raises:
        InputError: It is something else, or as ``check_scores``.
    """
    if not isinstance(value, Scores):
        raise InputError(
            f"scores: a {type(value).__name__}; give Scores, as Scores.from_table(table) returns"
        )
    # Looked at where it lies: nothing is compiled, and what other processes hold stays there.
    leaves = jax.tree.leaves(value)
    if any(isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True) for x in leaves):
        return
    if not all(np.isfinite(x).all() for x in leaves):  # of a response that is masked, it may be
        check_scores(value, varied=False)


def response_mask(scores: Scores) -> Array | None:
    """Return ``(prompts, responses)`` bool, False for missing responses; None where none is missing."""
    return None if scores.mask is None else scores.mask.astype(bool)


def score_prompts(scores: Scores, first: int | Array, size: int) -> Scores:
    """Return ``size`` prompts of a table, from the ``first``-th on, with the table's own baseline."""
    rows = dataclasses.replace(scores, baseline=None)
    part: Scores = jax.tree.map(lambda leaf: slice_along(leaf, first, size, 0), rows)
    return dataclasses.replace(part, baseline=scores.baseline)


def present(scores: Scores) -> np.ndarray:
    """Return ``(prompts, responses)`` bool, False for missing responses."""
    return np.ones(scores.reward.shape, bool) if scores.mask is None else np.asarray(scores.mask, bool)


@jit()
def normalised_prompt_weights(scores: Scores) -> Array:
    """Return weights ``(prompts,)`` that sum to one; prompts without a response weigh nothing."""
    weights = scores.prompt_weights
    if weights is None:
        weights = jnp.ones(scores.reward.shape[0], scores.dtype)
    mask = response_mask(scores)
    if mask is not None:
        weights = jnp.where(jnp.any(mask, axis=-1), weights, 0)
    return weights / accurate_sum(weights)


def effective_prompts(weights: Array, members: Array | None = None) -> np.ndarray:
    """Return how many prompts of equal weight tell as much (Kish): (Σw)²/Σw², ``(m,)`` or a scalar.

    Those of each constraint's group, where ``members (prompts, m)`` are 1 in it.
    """
    own = np.asarray(weights, np.float64)
    own = own if members is None else own * np.asarray(members).T
    return np.asarray(own.sum(-1) ** 2 / np.maximum((own**2).sum(-1), 1e-300))


def reference_mean(scores: Scores) -> Array:
    """Return E_ref[g] ``(m,)``: the stored baseline, else the table's weighted mean (paper, eq. 1)."""
    if scores.baseline is not None:
        return scores.baseline
    per_prompt = response_mean(jnp.moveaxis(scores.constraints, -1, 0), scores.mask)
    return accurate_sum(per_prompt * normalised_prompt_weights(scores))


def check_scores(scores: Scores, names: Sequence[str] | None = None, *, varied: bool = True) -> ScoreSummary:
    """Check a table of concrete arrays before it is solved, and count prompts that do not inform λ*.

    Without ``varied``, all responses may score the same: a table of which only means are taken.

    Raises:
        InputError: A wrong shape, a score that is NaN or infinite, weights that are negative or all zero,
            or a table where every prompt's responses score the same.
    """
    reward, constraints = np.asarray(scores.reward), np.asarray(scores.constraints)
    _check_shapes(scores, reward, constraints)
    names = constraint_names(constraints.shape[-1], scores.names if names is None else names)
    mask = present(scores)
    for name, values in [("reward", reward), *((n, constraints[..., j]) for j, n in enumerate(names))]:
        _check_finite(name, values, mask)
    _check_weights(scores, mask)
    counts = count_prompts(reward, constraints, mask)
    if varied:
        counts.check_varied()
    return counts


def _check_shapes(scores: Scores, reward: np.ndarray, constraints: np.ndarray) -> None:
    if reward.ndim != 2 or 0 in reward.shape:
        raise InputError(f"reward has shape {reward.shape}; give (prompts, responses), neither of them 0")
    if constraints.ndim != 3 or constraints.shape[:2] != reward.shape or constraints.shape[2] == 0:
        expected = f"give {(*reward.shape, 'm')}, m >= 1, like reward"
        raise InputError(f"constraints have shape {constraints.shape}; {expected}")
    shapes = {"mask": reward.shape, "prompt_weights": reward.shape[:1], "baseline": constraints.shape[2:]}
    for field, shape in shapes.items():
        value = getattr(scores, field)
        if value is not None and np.shape(value) != shape:
            raise InputError(f"{field} has shape {np.shape(value)}; give {shape}")


def _check_finite(name: str, values: np.ndarray, mask: np.ndarray) -> None:
    bad = mask & ~np.isfinite(values)
    if bad.any():
        where = ", ".join(f"prompt {n} response {k}" for n, k in np.argwhere(bad)[:3])
        where += ", ..." if bad.sum() > 3 else ""
        raise InputError(f"{name}: {bad.sum()} scores are NaN or infinite ({where}); fix or mask them")


def _check_weights(scores: Scores, mask: np.ndarray) -> None:
    if not mask.any():
        raise InputError("mask is False everywhere; keep at least one response")
    if scores.baseline is not None and not np.all(np.isfinite(np.asarray(scores.baseline))):
        raise InputError("baseline is NaN or infinite; give a finite E_ref[g] for each constraint")
    if scores.prompt_weights is None:
        return
    weights = np.asarray(scores.prompt_weights)
    if not np.all(np.isfinite(weights)) or (weights < 0).any():
        raise InputError("prompt_weights must be finite, and none negative")
    check_total_weight(float(weights[mask.any(axis=-1)].sum(dtype=float)))


def never_vary(scores: Scores) -> np.ndarray:
    """Return which constraints ``(m,)`` bool score all responses to a prompt the same, at every prompt."""
    there = present(scores)
    every = np.moveaxis(np.asarray(scores.constraints), -1, 0)
    return np.array([alike(own, there).all() for own in every])


def alike(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the prompts ``(prompts,)`` bool whose responses, where they are there, all have one value."""
    first = np.take_along_axis(values, np.argmax(there, axis=1)[:, None], axis=1)
    return np.asarray(((values == first) | ~there).all(axis=1))


def check_total_weight(total: float) -> None:
    """Check that the weights of the prompts with responses sum to something.

    Raises:
        InputError: They do not.
    """
    if not total > 0:
        raise InputError("prompt_weights are all 0; give some prompt with responses a weight")


def count_prompts(reward: np.ndarray, constraints: np.ndarray, mask: np.ndarray) -> ScoreSummary:
    """Return the counts of a table, or of a part of one; prompts without a response do not count."""
    if not mask.size:  # a part of which every row was dropped
        return ScoreSummary(0, 0, 0, 0)
    count = mask.sum(axis=1)
    several = count > 1
    for values in (reward, *np.moveaxis(constraints, -1, 0)):
        # two responses tell of most prompts, in a hundredth of the time
        several &= (values[:, 0] == values[:, -1]) | ~(mask[:, 0] & mask[:, -1])
        some = np.flatnonzero(several)
        own, first = values[some], np.argmax(mask[some], axis=1)
        several[some] = np.all((own == own[np.arange(len(some)), first, None]) | ~mask[some], axis=1)
    return ScoreSummary(int((count > 0).sum()), int(count.sum()), int((count == 1).sum()), int(several.sum()))

"""The score table: rewards and constraint scores of K responses to each of N prompts."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import (
    Array,
    accurate_sum,
    check_real,
    is_here,
    numbers,
    response_mean,
    slice_along,
)
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.display import display
from cann_jax.core.precision import check_precision, is_kept, to_float32
from cann_jax.files.errors import InputError

ARRAYS = ("reward", "constraints", "mask", "prompt_weights", "baseline")


# jax 0.9 drops the letters of a text here, and what a tuple holds; later ones drop texts.
DROPPED: Any = ("names", ("names",))


# Were names a part of the tree, JAX would compile anew for each, and trees of other names would not match.
@partial(jax.tree_util.register_dataclass, data_fields=ARRAYS, meta_fields=(), drop_fields=DROPPED)
@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of responses drawn from the reference policy; larger is better in all of them.

    Whole numbers and half precision become floating-point ones: margins and β take the scores' type, and
    β = 0.5 among integers would be 0. Lists, and what NumPy can read, become arrays.

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
        for field in ARRAYS:
            value = getattr(self, field)
            # Transformations of the tree put other things than arrays here, which are left as they are.
            if isinstance(value, list | tuple) or (hasattr(value, "__array__") and not _is_array(value)):
                value = numbers(field, value, bool if field == "mask" else float)
            elif _is_array(value):
                check_real(field, value)
                if field != "mask" and not _is_wide(value.dtype):
                    # JAX's own for halves; NumPy's for whole numbers, of which float32 might round away some
                    if value.dtype.itemsize <= 2:
                        value = value.astype(jax.dtypes.canonicalize_dtype(float))
                    else:
                        value = (np.asarray(value) if is_here(value) else value).astype(float)
            object.__setattr__(self, field, value)
        if self.names is not None:
            count = self.constraints.shape[-1]
            # Where constraints have no axis for them, that is what is wrong, and said where they are read.
            counted = self.constraints.ndim == 3
            if isinstance(self.names, str) or (counted and len(self.names) != count):
                raise InputError(f"names: {self.names!r} for {count} constraints; give a list of one each")
            if len({*self.names}) < len(self.names):
                raise InputError(f"names: {self.names!r}; give each constraint a name of its own")
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


def _is_array(value: Any) -> bool:
    return isinstance(value, Array) and value.dtype != object


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
    """Check that a value is ``Scores`` whose shapes fit, and where it is concrete, scores and weights too.

    Raises:
        InputError: It is something else, or as ``check_scores``, but that all responses may score the same.
    """
    _check_type(value)
    _check_shapes(value)
    if is_here(value):  # looked at where it lies, so that nothing is compiled
        _check_values(value, constraint_names(value.constraints.shape[-1], value.names))


def check_each(value: Any) -> None:
    """Check that a value is ``Scores`` whose shapes fit, be it of one prompt or with further axes in front.

    Raises:
        InputError: It is something else, or shapes do not fit.
    """
    _check_type(value)
    reward = np.shape(value.reward)
    if len(reward) == 2 or np.shape(value.constraints)[:-1] != reward:
        _check_shapes(value)


def _check_type(value: Any) -> None:
    if not isinstance(value, Scores):
        raise InputError(
            f"scores: a {type(value).__name__}; give Scores, as Scores.from_table(table) returns"
        )


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


@on_host
def check_scores(scores: Scores, names: Sequence[str] | None = None, *, varied: bool = True) -> ScoreSummary:
    """Check a table of concrete arrays before it is solved, and count prompts that do not inform λ*.

    Without ``varied``, all responses may score the same: a table of which only means are taken. Runs on the
    host.

    Raises:
        InputError: A wrong shape, a score that is NaN or infinite, float64 scores of which float32 would
            round away the differences, weights that are negative or all zero, or a table where every prompt's
            responses score the same.
    """
    _check_shapes(scores)
    constraints = np.asarray(scores.constraints)
    _check_values(scores, constraint_names(constraints.shape[-1], scores.names if names is None else names))
    counts = count_prompts(np.asarray(scores.reward), constraints, present(scores))
    if varied:
        counts.check_varied()
    return counts


def _check_shapes(scores: Scores) -> None:
    reward, constraints = np.shape(scores.reward), np.shape(scores.constraints)
    if len(reward) != 2 or 0 in reward:
        raise InputError(f"reward has shape {reward}; give (prompts, responses), neither of them 0")
    if constraints == reward:
        raise InputError(
            f"constraints have shape {reward}, as reward; give {(*reward, 1)}: constraints[..., None]"
        )
    if constraints == (*reward, 0):
        raise InputError("constraints: none given; without one there is no multiplier to look for")
    if len(constraints) != 3 or constraints[:2] != reward:
        raise InputError(f"constraints have shape {constraints}; give {(*reward, 'm')}, m >= 1, like reward")
    shapes = {"mask": reward, "prompt_weights": reward[:1], "baseline": constraints[2:]}
    for field, shape in shapes.items():
        value = getattr(scores, field)
        if value is not None and np.shape(value) != shape:
            raise InputError(f"{field} has shape {np.shape(value)}; give {shape}")


def _check_values(scores: Scores, names: Sequence[str]) -> None:
    mask = present(scores)
    if not mask.any():
        raise InputError("mask is False everywhere; keep at least one response")
    every = [np.asarray(scores.reward), *np.moveaxis(np.asarray(scores.constraints), -1, 0)]
    precision = {}
    for name, values in zip(("reward", *names), every, strict=True):
        _check_finite(name, values, mask)
        if _is_narrowed(values) and not is_kept(values, mask):
            with np.errstate(over="ignore", invalid="ignore"):
                rounded, precision[name] = to_float32(values, mask)
            _check_finite(name, rounded, mask, " in float32")
    check_precision(precision)
    _check_weights(scores, mask)


def _is_narrowed(values: np.ndarray) -> bool:
    """Return whether JAX computes in a narrower type, as unless ``jax_enable_x64`` is set in float32."""
    return bool(jax.dtypes.canonicalize_dtype(values.dtype).itemsize < values.dtype.itemsize)


def _check_finite(name: str, values: np.ndarray, mask: np.ndarray, where: str = "") -> None:
    bad = mask & ~np.isfinite(values)
    if bad.any():
        places = ", ".join(f"prompt {n} response {k}" for n, k in np.argwhere(bad)[:3])
        places += ", ..." if bad.sum() > 3 else ""
        what = f"{name}: {bad.sum()} scores are NaN or infinite{where} ({places})"
        raise InputError(f"{what}; {'scale' if where else 'fix'} or mask them")


def _check_weights(scores: Scores, mask: np.ndarray) -> None:
    dtype = scores.dtype
    if scores.baseline is not None and not np.all(np.isfinite(numbers("baseline", scores.baseline, dtype))):
        raise InputError("baseline is NaN or infinite; give a finite E_ref[g] for each constraint")
    if scores.prompt_weights is None:
        return
    weights = np.asarray(scores.prompt_weights)
    if not np.all(np.isfinite(weights)) or (weights < 0).any():
        raise InputError("prompt_weights must be finite, and none negative")
    total = float(weights[mask.any(axis=-1)].sum(dtype=float))
    check_total_weight(total)
    if not float(np.finfo(dtype).tiny) <= total <= float(np.finfo(dtype).max):
        raise InputError(
            f"prompt_weights sum to {total:.2g}, which {dtype} cannot hold; divide them by their mean"
        )


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

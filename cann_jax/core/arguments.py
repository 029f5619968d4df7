"""Arguments that functions of the core share: each is read, and checked, in one place.

Shapes are checked everywhere; numbers where they are concrete, as inside ``jit``, ``vmap`` and ``grad`` none
is.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jax.typing import ArrayLike, DTypeLike

from cann_jax.core.arrays import Array, is_traced, numbers
from cann_jax.core.scores import Scores, check_is_scores
from cann_jax.files.errors import InputError, shown

ROUNDING = 1e-6  # a solver's λ may lie so far below 0

P = ParamSpec("P")
R = TypeVar("R")


def required_margins(
    margins: ArrayLike | Mapping[str, ArrayLike], scores: Scores, points: bool = False
) -> Array:
    """Return b ``(m,)``, one for each constraint of the scores, or by name; a scalar is one for m = 1.

    With ``points`` they may be ``(points, m)``, and ``(points,)`` for m = 1, too.

    Raises:
        InputError: Names or shapes that do not fit, or margins or scores that are not finite where they are
            concrete.
    """
    check_is_scores(scores)
    required = _each("margins", _in_order(margins, scores), scores, points)
    if not is_traced(required):
        check_all("margins", required, np.isfinite(required), "finite numbers")
    return required


def _in_order(margins: ArrayLike | Mapping[str, ArrayLike], scores: Scores) -> Any:
    """Return margins by name in the order of the scores' constraints; others as they are."""
    if not isinstance(margins, Mapping):
        return margins
    if scores.names is None:
        raise InputError(
            "margins: given by name, but the scores have no names; give a list, or names=(…) to Scores"
        )
    if margins.keys() != set(scores.names):
        given, names = ", ".join(map(str, margins)) or "none", ", ".join(scores.names)
        raise InputError(f"margins: given for {given}; the constraints are {names}: give each of them one")
    if any(np.shape(margin) != () for margin in margins.values()):
        raise InputError("margins: given by name, each has to be one number; give others as an array")
    return [margins[name] for name in scores.names]


def multipliers_of(multipliers: ArrayLike, scores: Scores, name: str = "multipliers") -> Array:
    """Return λ ``(m,)``, one for each constraint of the scores; a scalar is one for m = 1.

    Raises:
        InputError: A shape that does not fit.
    """
    return _each(name, multipliers, scores)


def finite_multipliers(multipliers: ArrayLike, scores: Scores, name: str = "multipliers") -> Array:
    """Return λ ``(m,)`` as ``multipliers_of`` does; of a solver's, rounding below 0 is 0.

    Raises:
        InputError: As it, or where λ is concrete, one that is not finite, or below 0.
    """
    found = multipliers_of(multipliers, scores, name)
    if is_traced(found):
        return found
    check_all(name, found, np.isfinite(found) & (found >= -ROUNDING), "finite numbers that are not below 0")
    return np.maximum(found, 0)


def check_all(name: str, values: Array, good: Array, wanted: str) -> None:
    """Raise InputError about the values that are not ``good``, and say what is wanted in their place."""
    if not np.all(good):
        raise InputError(f"{name}: {shown(values[~good].tolist())}; give {wanted}")


def _each(name: str, values: Any, scores: Scores, points: bool = False) -> Array:
    found, count = numbers(name, values, scores.dtype), scores.constraints.shape[-1]
    if count == 1 and found.ndim <= points:
        found = found[..., None]
    if found.shape[-1:] != (count,) or found.ndim > 1 + points:
        expected = f"(points, {count}), or one" if points else "one"
        raise InputError(
            f"{name} of shape {found.shape}; give {expected} for each of the {count} constraints"
        )
    return found


def required_beta(beta: ArrayLike, dtype: DTypeLike) -> Array:
    """Return β, a scalar.

    Raises:
        InputError: It is none, or where it is concrete, as ``check_beta``.
    """
    if not is_traced(beta):
        check_beta(beta, dtype)
    found = numbers("beta", beta, dtype)
    if found.shape != ():
        raise InputError(f"beta has shape {found.shape}; give a number")
    return found


def check_beta(beta: ArrayLike, dtype: DTypeLike = np.float32) -> None:
    """Raise InputError unless β is positive and in the range of ``dtype``, which 1e-45 is not.

    Scores are divided by it, so that a margin of 10¹² is kept at both ends.
    """
    values, limits = numbers("beta", beta, np.float64), np.finfo(dtype)
    low, high = float(limits.tiny) * 1e12, float(limits.max) / 1e12
    check_all(
        "beta", values, (values >= low) & (values <= high), f"a positive number, from {low:.0e} to {high:.0e}"
    )


def tail_of(confidence: float, tails: int) -> float:
    """Return the probability of each of several tails, where all of them together have 1 − ``confidence``.

    Raises:
        InputError: A confidence that is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence}; give a number between 0 and 1")
    return (1 - confidence) / tails


def takes_lists(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, with arrays in place of the lists of numbers that it is given."""

    def read(value: Any) -> Any:
        if type(value) not in (list, tuple):
            return value
        found = numbers(function.__name__, value)
        return found if found.dtype == bool else found.astype(float)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        return function(*map(read, arguments), **{name: read(value) for name, value in named.items()})

    return call

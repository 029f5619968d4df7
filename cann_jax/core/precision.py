"""What float32, in which JAX computes, keeps of float64 scores."""

from collections.abc import Mapping

import numpy as np

from cann_jax.files.errors import InputError

LOST = 1e-3  # share of the differences between a prompt's responses that rounding may change
SOME = 64  # prompts whose differences are bound enough for most tables


def to_float32(
    values: np.ndarray, mask: np.ndarray, rest: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 scores ``(prompts, responses)`` in float32, NaN for no response, and their precision.

    The precision ``(2,)`` is how far float32 rounds a value, and how far values of a prompt differ, both at
    most; see ``check_precision``. ``rest`` is what float64 itself left out of the scores, where it did.
    """
    rounded = np.where(mask, values, np.nan).astype(np.float32)
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0  # as XLA computes
    lost = values - rounded if rest is None else values - rounded + rest
    rounding = np.max(np.abs(lost), initial=0, where=mask)
    if rest is not None:  # from the prompt's lowest score on, which leaves room for it
        lowest = np.min(values, axis=1, keepdims=True, initial=np.inf, where=mask)
        values = np.where(mask, values - np.where(np.isinf(lowest), 0, lowest) + rest, 0)
    return rounded, np.array([rounding, _difference(values, mask)])


def is_kept(values: np.ndarray, mask: np.ndarray) -> bool:
    """Return whether float32 keeps float64 scores for sure, by a bound that takes little time.

    Where it does not tell, ``to_float32`` does.
    """
    limits, largest = np.finfo(np.float32), float(max(np.max(values), -np.min(values)))
    rounding = float(limits.eps) * largest + float(limits.tiny)
    known = LOST * _difference(values[:SOME], mask[:SOME])
    return largest <= float(limits.max) and rounding <= known


def _difference(values: np.ndarray, mask: np.ndarray) -> float:
    """Return how far values of a prompt differ at most; 0 where it is by float64's own rounding."""
    highest = np.max(values, axis=1, initial=-np.inf, where=mask)
    lowest = np.min(values, axis=1, initial=np.inf, where=mask)
    found = float(np.max(highest - lowest, initial=0))
    largest = float(np.max(np.abs(values), initial=0, where=mask))
    return found if found > 8 * np.finfo(np.float64).eps * largest else 0.0


def check_precision(precision: Mapping[str, np.ndarray], where: str = "") -> None:
    """Check that float32 keeps what scores say: 1e8 and 1e8 + 1 would be one number.

    ``precision`` is that of ``to_float32`` by score, and ``where`` begins the message.

    Raises:
        InputError: Rounding changes the differences between the responses of a prompt by a thousandth.
    """
    for name, (rounding, difference) in precision.items():
        if rounding > LOST * difference > 0:
            raise InputError(
                f"{where}float32 rounds {name} by up to {rounding:.2g}, but in a prompt it differs by no "
                f"more than {difference:.2g}; subtract a constant from it or multiply it, or leave it out"
            )


def beyond_float32(values: np.ndarray) -> np.ndarray:
    """Return where float64 values are infinite once they are float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isinf(values.astype(np.float32)))

"""What float32, in which JAX computes, keeps of float64 scores."""

from collections.abc import Mapping

import numpy as np

from cann_jax.files.errors import InputError


def to_float32(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 scores ``(prompts, responses)`` in float32, NaN for no response, and their precision.

    The precision ``(2,)`` is how far float32 rounds a value, and how far values of a prompt differ, both at
    most; see ``check_precision``.
    """
    rounded = np.where(mask, values, np.nan).astype(np.float32)
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0  # as XLA computes
    rounding = np.max(np.abs(values - rounded), initial=0, where=mask)
    highest = np.max(values, axis=1, initial=-np.inf, where=mask)
    lowest = np.min(values, axis=1, initial=np.inf, where=mask)
    return rounded, np.array([rounding, np.max(highest - lowest, initial=0)])


def check_precision(precision: Mapping[str, np.ndarray], where: str = "") -> None:
    """Check that float32 keeps what scores say: 1e8 and 1e8 + 1 would be one number.

    ``precision`` is that of ``to_float32`` by score, and ``where`` begins the message.

    Raises:
        InputError: Rounding changes the differences between the responses of a prompt by a thousandth.
    """
    for name, (rounding, difference) in precision.items():
        if rounding > 1e-3 * difference > 0:
            raise InputError(
                f"{where}float32 rounds {name} by up to {rounding:.2g}, but in a prompt it differs by no "
                f"more than {difference:.2g}; subtract a constant from it or multiply it, or leave it out"
            )


def beyond_float32(values: np.ndarray) -> np.ndarray:
    """Return where float64 values are infinite once they are float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isinf(values.astype(np.float32)))

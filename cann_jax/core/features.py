"""Features of responses, read a few prompts at a time: all of them may be far larger than memory."""

import dataclasses
import math
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, numbers
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.table import centred, unit
from cann_jax.files.errors import InputError

BLOCK = 2**24  # numbers of features that are held at once, but for one prompt's


class FeatureTable(Protocol):
    """Features ``(prompts, responses, F)`` of any floating-point type: an array, or what reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(prompts, responses, F)``."""

    def __getitem__(self, prompts: np.ndarray, /) -> Any:
        """Return the features ``(n, responses, F)`` of n prompts by their numbers."""


@dataclasses.dataclass(frozen=True)
class StandardisedFeatures:
    """Features centred within each prompt and divided by their deviation over the table, when they are read.

    Attributes:
        raw: The features as they were.
        mask: ``(prompts, responses)`` bool, False for missing responses, whose features are 0; None: none is.
        size: ``(F,)``, the largest magnitude of each, or 1.
        spread: ``(F,)``, their deviation over ``size``; 0 for features that never vary within a prompt, which
            become 0.
    """

    raw: FeatureTable
    mask: np.ndarray | None
    size: np.ndarray
    spread: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """``(prompts, responses, F)``."""
        return self.raw.shape

    def __getitem__(self, prompts: np.ndarray, /) -> Array:
        """Return the features of some prompts, float32 or wider."""
        return _standardised(*part_of(self.raw, self.mask, prompts), self.size, self.spread)


@on_host
def standardise_features(features: FeatureTable, mask: Array | None = None) -> StandardisedFeatures:
    """Return features as ``predict_scores`` wants them; two passes over the table.

    Runs on the host.

    Args:
        features: ``(prompts, responses, F)``.
        mask: ``(prompts, responses)`` bool, False for missing responses.

    Raises:
        InputError: Features of another shape, or that are NaN or infinite.
    """
    features = feature_table(features)
    there = None if mask is None else np.asarray(mask, bool)
    if there is not None and there.shape != features.shape[:2]:
        raise InputError(f"mask has shape {there.shape}; give {features.shape[:2]}, like features")
    check_finite(features, there)
    parts = [_spread(*part_of(features, there, block)) for block in _blocks(features)]
    sizes, squares = (np.stack(part) for part in zip(*parts, strict=True))
    size = np.where(sizes.max(0) > 0, sizes.max(0), 1)
    count = math.prod(features.shape[:2]) if there is None else max(int(there.sum()), 1)
    spread = np.sqrt(np.sum(squares * (sizes / size) ** 2, axis=0) / count)
    varies = spread > 4 * np.finfo(sizes.dtype).eps  # less is the rounding of equal values
    return StandardisedFeatures(features, there, size, np.where(varies, spread, 0))


def feature_table(features: FeatureTable | list[Any]) -> FeatureTable:
    """Return features that can be read; a list becomes an array.

    Raises:
        InputError: They are not ``(prompts, responses, F)``, none of them 0.
    """
    found = numbers("features", features, float) if isinstance(features, list) else features
    if len(found.shape) != 3 or 0 in found.shape:
        raise InputError(f"features have shape {found.shape}; give (prompts, responses, F), none of them 0")
    return found


def _blocks(features: FeatureTable) -> list[np.ndarray]:
    """Return the numbers of all prompts, in blocks of ``BLOCK`` features at most."""
    prompts = features.shape[0]
    return np.array_split(np.arange(prompts), -(-prompts // at_once(features)))


def at_once(features: FeatureTable) -> int:
    """Return how many prompts' features are held at once."""
    return max(1, BLOCK // max(1, int(np.prod(features.shape[1:]))))


def part_of(features: FeatureTable, mask: np.ndarray | None, prompts: np.ndarray) -> tuple[Any, Any]:
    """Return the features and the mask of some prompts."""
    return features[prompts], None if mask is None else mask[prompts]


@jit()
def _spread(values: Array, mask: Array | None) -> tuple[Array, Array]:
    """Return the largest magnitude of each feature, and the sum of squares of its deviations over that."""
    size = jnp.max(jnp.abs(_present(values, mask)), axis=(1, 2))
    return size, jnp.sum(_deviations(values, mask, unit(size)) ** 2, axis=(1, 2))


@jit()
def _standardised(values: Array, mask: Array | None, size: Array, spread: Array) -> Array:
    deviations = jnp.moveaxis(_deviations(values, mask, size), 0, -1)
    return jnp.where(spread > 0, deviations / unit(spread), 0)


def _deviations(values: Array, mask: Array | None, size: Array) -> Array:
    """Return features over ``size``, centred within each prompt, ``(F, prompts, responses)``."""
    return centred(_present(values, mask) / size[:, None, None], mask)


def _present(values: Array, mask: Array | None) -> Array:
    """Return features ``(F, prompts, responses)`` in float32 or wider, 0 for missing responses."""
    wide = jnp.moveaxis(jnp.asarray(values, jnp.promote_types(values.dtype, jnp.float32)), -1, 0)
    return wide if mask is None else jnp.where(mask, wide, 0)


def check_finite(features: FeatureTable, mask: np.ndarray | None) -> None:
    """Raise InputError if features of a response that is not missing are NaN or infinite."""
    bad = np.concatenate([~np.isfinite(features[block]).all(-1) for block in _blocks(features)])
    if mask is not None:
        bad &= mask
    if bad.any():
        first = "prompt {} response {}".format(*np.argwhere(bad)[0])
        raise InputError(f"features: NaN or infinite for {bad.sum()} responses ({first}); fix or mask them")

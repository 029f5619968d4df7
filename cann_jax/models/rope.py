"""Rotary position embedding, read from and written to ``config.json``."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import REMEDY, is_positive
from cann_jax.models.rope_scaling import DEFAULT, SCALINGS, Default

Tables = tuple[Array, Array]  # cosines and sines
# Keys of every kind that are read elsewhere, and one that files carry and nothing reads.
_READ_ELSEWHERE = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "finetuned"}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding in the half-rotation convention (Su et al. 2021).

    Args:
        head_dim: Size of a head; even.
        theta: Base of the geometric series of wavelengths.
        scaling: Change of the frequencies beyond the trained length.
        share: Fraction of a head that is rotated, its first coordinates.
    """

    head_dim: int
    theta: float
    scaling: Default = DEFAULT
    share: float = 1.0

    @property
    def size(self) -> int:
        """Number of coordinates of a head that are rotated."""
        return int(self.head_dim * self.share)

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any], head_dim: int, positions: int, source: str) -> "Rope":
        """Read ``rope_parameters``, ``rope_theta`` included.

        Args:
            parameters: The mapping.
            head_dim: Size of a head.
            positions: ``max_position_embeddings``, for kinds that depend on it.
            source: Name of the file in errors.

        Raises:
            InputError: A kind or a key is not implemented, or a value has the wrong type.
        """
        theta = parameters.get("rope_theta")
        if not is_positive(theta):
            raise InputError(f"{source}: rope_theta is {theta!r}; give a positive number")
        share = parameters.get("partial_rotary_factor") or 1.0
        if not is_positive(share) or share > 1 or int(head_dim * share) % 2:
            raise InputError(
                f"{source}: partial_rotary_factor is {share!r}, which gives no even part of {head_dim}; "
                f"{REMEDY}"
            )
        plain = cls(head_dim, float(theta), share=share)
        return replace(plain, scaling=_scaling(parameters, plain.size, positions, source))

    def to_hf(self) -> dict[str, Any]:
        """Return the ``rope_parameters`` from which ``from_hf`` reads this object."""
        values = {key: value for key, value in asdict(self.scaling).items() if value is not None}
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        values.pop("max_position_embeddings", None)  # a key beside rope_parameters
        if self.share != 1:
            values["partial_rotary_factor"] = self.share
        kind = next(name for name, kind in SCALINGS.items() if type(self.scaling) is kind)
        return {"rope_type": kind, "rope_theta": self.theta, **values}

    def tables(self, positions: Array, lengths: Array) -> Tables:
        """Return cosines and sines, each (…, S, size) in float32.

        Angles are float32 products of exact integers: in bfloat16, position 2,049 would already be 2,048.

        Args:
            positions: (…, S).
            lengths: (…,) of the sequences without their padding; only two kinds of scaling depend on them.
        """
        plain = self.theta ** (-jnp.arange(0, self.size, 2, dtype=jnp.float32) / self.size)
        frequencies = self.scaling(plain, self.theta, lengths[..., None, None])
        angles = positions[..., None].astype(jnp.float32) * frequencies
        angles = jnp.concatenate([angles, angles], axis=-1)
        factor = self.scaling.cosine_factor
        return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: Array, tables: Tables) -> Array:
    """Rotate the first ``size`` coordinates of ``x (…, heads, head_dim)`` by ``tables (…, size)``.

    Computed in float32; the result has x's dtype. The halves of a table are equal. Taken half by half, no
    intermediate goes to memory on a TPU, where (-second, first) did.
    """
    half = tables[0].shape[-1] // 2
    cos, sin = (table[..., None, :half] for table in tables)
    first, second, kept = jnp.split(x.astype(jnp.float32), [half, 2 * half], axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, kept]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _scaling(parameters: Mapping[str, Any], size: int, positions: int, source: str) -> Default:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in SCALINGS:
        raise InputError(
            f"{source}: RoPE scaling {kind!r} is not supported; use a model with one of {', '.join(SCALINGS)}"
        )
    items = {item.name: item for item in fields(SCALINGS[kind])}
    values = {
        key: value for key, value in parameters.items() if key not in _READ_ELSEWHERE and value is not None
    }
    if "max_position_embeddings" in items:
        values["max_position_embeddings"] = positions
    if "original_max_position_embeddings" in items:
        values.setdefault("original_max_position_embeddings", positions)
        values.setdefault("factor", positions / values["original_max_position_embeddings"])
    else:
        values.pop("original_max_position_embeddings", None)
    for key in values.keys() - items.keys():
        raise InputError(f"{source}: RoPE scaling {kind!r} has no {key!r}; use a model without it")
    for key, item in items.items():
        if item.default is MISSING and key not in values:
            raise InputError(f"{source}: RoPE scaling {kind!r} lacks {key!r}; {REMEDY}")
    return SCALINGS[kind](**{key: _checked(key, value, size, source) for key, value in values.items()})


def _checked(key: str, value: Any, size: int, source: str) -> Any:
    """Return a value of the right type: a positive number, a list of ``size / 2`` of them, or a flag."""
    if key == "truncate":
        fits = isinstance(value, bool)
    elif key in ("short_factor", "long_factor"):
        fits = isinstance(value, list) and len(value) == size // 2 and all(map(is_positive, value))
        value = tuple(value) if fits else value
    else:
        fits = is_positive(value)
    if not fits:
        raise InputError(f"{source}: RoPE's {key} is {value!r}, which is not valid; {REMEDY}")
    return value

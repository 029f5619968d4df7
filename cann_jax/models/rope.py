"""Rotary position embedding and its scalings, read from and written to ``config.json``."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from cann_jax.files.errors import InputError, shown
from cann_jax.models.config_reader import REMEDY, is_positive

Tables = tuple[Array, Array]  # cosines and sines
# Keys of every kind that are read elsewhere, and one that files carry and nothing reads.
_READ_ELSEWHERE = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "finetuned"}


@dataclass(frozen=True)
class Default:
    """No scaling; the base of the others, whose fields are keys of ``rope_parameters``.

    A call returns radians a position, (…, size / 2) float32, and a factor of cosines and sines. It takes the
    plain frequencies and, for the kinds that depend on it, the length of the sequence (…, 1).
    """

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Return the frequencies as they are."""
        return plain, 1.0


@dataclass(frozen=True)
class Linear(Default):
    """Positions divided by ``factor`` (Chen et al. 2023)."""

    factor: float

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Divide every frequency."""
        return plain / self.factor, 1.0


@dataclass(frozen=True)
class Dynamic(Default):
    """NTK-aware scaling whose base grows with the sequence, once that is longer than trained.

    Keys computed while a sequence was shorter keep their angles, in transformers as here.
    """

    factor: float  # how fast the base grows
    max_position_embeddings: int  # the trained length

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Lower the frequencies as the sequence grows."""
        size = 2 * plain.shape[-1]
        trained = self.max_position_embeddings
        growth = self.factor * jnp.maximum(length, trained) / trained - (self.factor - 1)
        return plain * growth ** (-jnp.arange(0, size, 2) / (size - 2)), 1.0


@dataclass(frozen=True)
class Llama3(Default):
    """Long wavelengths divided by ``factor``, short ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float  # wavelengths above trained length / this are long
    high_freq_factor: float  # wavelengths below trained length / this are short
    original_max_position_embeddings: int

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Divide the frequencies of long wavelengths."""
        turns = self.original_max_position_embeddings * plain / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0, 1)
        return plain * (kept + (1 - kept) / self.factor), 1.0


@dataclass(frozen=True)
class Yarn(Default):
    """YaRN (Peng et al. 2023, section 3.2): a ramp over dimensions between plain and divided frequencies.

    The factor of cosines and sines acts as a temperature of the scores.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None  # of cosines and sines; None for 0.1 ln(factor) + 1
    beta_fast: float | None = None  # turns within the trained length above which a dimension is kept
    beta_slow: float | None = None  # turns below which it is divided
    mscale: float | None = None  # with mscale_all_dim, the numerator's weight of ln(factor)
    mscale_all_dim: float | None = None  # the denominator's weight
    truncate: bool = True  # whether to round the ramp's ends outward

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Divide the frequencies of the later dimensions."""
        size = 2 * plain.shape[-1]
        low = self._dimension(self.beta_fast or 32, size, theta)
        high = self._dimension(self.beta_slow or 1, size, theta)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        # transformers widens an empty ramp by as much.
        width = high - low if high != low else 0.001
        divided = jnp.clip((jnp.arange(size // 2) - low) / width, 0, 1)
        return plain * (1 - divided + divided / self.factor), self._cosine_factor()

    def _dimension(self, turns: float, size: int, theta: float) -> float:
        """Return the dimension that makes this many turns within the trained length."""
        wavelength = self.original_max_position_embeddings / turns
        return size * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    def _cosine_factor(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return self._temperature(1.0)

    def _temperature(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class LongRope(Default):
    """LongRoPE (Ding et al. 2024): divisors for each dimension, up to the trained length and beyond."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float  # multiple of the trained length
    attention_factor: float | None = None  # of cosines and sines; None for √(1 + ln factor / ln trained)

    def __call__(self, plain: Array, theta: float, length: Array) -> tuple[Array, float]:
        """Divide each frequency by the divisor of its dimension and length."""
        trained = self.original_max_position_embeddings
        divisors = jnp.where(length > trained, jnp.array(self.long_factor), jnp.array(self.short_factor))
        factor = self.attention_factor
        if factor is None:
            factor = 1.0 if self.factor <= 1 else math.sqrt(1 + math.log(self.factor) / math.log(trained))
        return plain / divisors, factor


SCALINGS: dict[str, type[Default]] = {  # by transformers' ``rope_type``
    "default": Default,
    "linear": Linear,
    "dynamic": Dynamic,
    "llama3": Llama3,
    "yarn": Yarn,
    "longrope": LongRope,
}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding in the half-rotation convention (Su et al. 2021)."""

    head_dim: int
    theta: float  # base of the geometric series of wavelengths
    scaling: Default = Default()
    share: float = 1.0  # fraction of a head that is rotated, its first coordinates

    @property
    def size(self) -> int:
        """Number of coordinates of a head that are rotated."""
        return int(self.head_dim * self.share)

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any], head_dim: int, positions: int, source: str) -> "Rope":
        """Read ``rope_parameters``, ``rope_theta`` included; ``positions`` is ``max_position_embeddings``.

        Raises:
            InputError: A kind or a key is not implemented, or a value has the wrong type.
        """
        theta = parameters.get("rope_theta")
        if not is_positive(theta):
            raise InputError(f"{source}: rope_theta is {shown(theta)}; give a positive number")
        share = parameters.get("partial_rotary_factor") or 1.0
        if not is_positive(share) or share > 1 or int(head_dim * share) % 2:
            raise InputError(
                f"{source}: partial_rotary_factor is {shown(share)}, which gives no even part of {head_dim}; "
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

    def to_older_hf(self) -> dict[str, Any]:
        """Return the keys beside ``rope_parameters`` from which transformers 4 reads this object.

        It passes over ``rope_parameters`` in silence, and takes a base of 10,000 and no scaling.
        """
        outside: tuple[str, ...] = ("rope_theta", "partial_rotary_factor")
        scaling = self.to_hf()
        beside = {key: scaling.pop(key) for key in outside if key in scaling}
        if scaling["rope_type"] == "default":
            return beside
        if isinstance(self.scaling, LongRope):  # in transformers 4 the trained length of this kind alone
            beside["original_max_position_embeddings"] = self.scaling.original_max_position_embeddings
        return {**beside, "rope_scaling": scaling}

    def tables(self, positions: Array, lengths: Array) -> Tables:
        """Return cosines and sines, each (…, S, size) in float32, of ``positions (…, S)``.

        ``lengths``, (…, 1) or (…, S), are those of the sequences without their padding; two kinds of scaling
        depend on them. Angles are float32 products of exact integers: in bfloat16, position 2,049 would be
        2,048.
        """
        plain = self.theta ** (-jnp.arange(0, self.size, 2, dtype=jnp.float32) / self.size)
        frequencies, factor = self.scaling(plain, self.theta, lengths[..., None])
        angles = positions[..., None].astype(jnp.float32) * frequencies
        angles = jnp.concatenate([angles, angles], axis=-1)
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
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise InputError(
            f"{source}: RoPE scaling {shown(kind)} is not supported; it may be one of {', '.join(SCALINGS)}"
        )
    items = {item.name: item for item in fields(SCALINGS[kind])}
    given = {key: value for key, value in parameters.items() if value is not None}
    values = {key: value for key, value in given.items() if key not in _READ_ELSEWHERE}
    if "max_position_embeddings" in items:
        values["max_position_embeddings"] = positions
    if "original_max_position_embeddings" in items:
        key = "original_max_position_embeddings"
        trained = _checked(key, values.setdefault(key, positions), size, source)
        values.setdefault("factor", positions / trained)
    else:
        values.pop("original_max_position_embeddings", None)
    for key in values.keys() - items.keys():
        raise InputError(f"{source}: RoPE scaling {shown(kind)} has no {key!r}; use a model without it")
    for key, item in items.items():
        if item.default is MISSING and key not in values:
            raise InputError(f"{source}: RoPE scaling {shown(kind)} lacks {key!r}; {REMEDY}")
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
        raise InputError(f"{source}: RoPE's {key} is {shown(value)}, which is not valid; {REMEDY}")
    return value

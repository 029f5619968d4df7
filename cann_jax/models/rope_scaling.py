"""The frequencies of rotary embeddings beyond the trained length, by transformers' ``rope_type``.

Field names are the keys of ``rope_parameters`` in ``config.json``. A call returns radians a
position, (…, size / 2) float32, from the plain ones and, where a kind depends on it, from the length of the
sequence (…, 1); ``cosine_factor`` multiplies cosines and sines.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Default:
    """No scaling."""

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
        """Return the scaled frequencies."""
        return plain

    @property
    def cosine_factor(self) -> float:
        """Factor of cosines and sines."""
        return 1.0


@dataclass(frozen=True)
class Linear(Default):
    """Positions divided by ``factor`` (Chen et al. 2023).

    Args:
        factor: Multiple of the trained length.
    """

    factor: float

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
        """Divide every frequency."""
        return plain / self.factor


@dataclass(frozen=True)
class Dynamic(Default):
    """NTK-aware scaling whose base grows with the sequence, once that is longer than trained.

    Keys computed while a sequence was shorter keep their angles, in transformers as here.

    Args:
        factor: How fast the base grows.
        max_position_embeddings: The trained length.
    """

    factor: float
    max_position_embeddings: int

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
        """Lower the frequencies as the sequence grows."""
        size = 2 * plain.shape[-1]
        trained = self.max_position_embeddings
        growth = self.factor * jnp.maximum(length, trained) / trained - (self.factor - 1)
        return plain * growth ** (-jnp.arange(0, size, 2) / (size - 2))


@dataclass(frozen=True)
class Llama3(Default):
    """Long wavelengths divided by ``factor``, short ones kept, a ramp between (Llama 3.1).

    Args:
        factor: Divisor of the long wavelengths.
        low_freq_factor: Wavelengths above trained length / this are long.
        high_freq_factor: Wavelengths below trained length / this are short.
        original_max_position_embeddings: The trained length.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
        """Divide the frequencies of long wavelengths."""
        turns = self.original_max_position_embeddings * plain / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0, 1)
        return plain * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class Yarn(Default):
    """YaRN (Peng et al. 2023, section 3.2): a ramp over dimensions between plain and divided frequencies.

    Args:
        factor: Multiple of the trained length.
        original_max_position_embeddings: The trained length.
        attention_factor: Factor of cosines and sines; None for 0.1 ln(factor) + 1.
        beta_fast: Turns within the trained length above which a dimension keeps its frequency.
        beta_slow: Turns below which it is divided.
        mscale: With ``mscale_all_dim``, the numerator's weight of ln(factor).
        mscale_all_dim: The denominator's weight.
        truncate: Whether to round the ramp's ends outward.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
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
        return plain * (1 - divided + divided / self.factor)

    def _dimension(self, turns: float, size: int, theta: float) -> float:
        """Return the dimension that makes this many turns within the trained length."""
        wavelength = self.original_max_position_embeddings / turns
        return size * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    @property
    def cosine_factor(self) -> float:
        """Factor of cosines and sines, which acts as a temperature of the scores."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return self._temperature(1.0)

    def _temperature(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class LongRope(Default):
    """LongRoPE (Ding et al. 2024): divisors for each dimension, up to the trained length and beyond.

    Args:
        short_factor: Divisors for sequences up to the trained length.
        long_factor: Divisors for longer sequences.
        original_max_position_embeddings: The trained length.
        factor: Multiple of the trained length.
        attention_factor: Factor of cosines and sines; None for √(1 + ln factor / ln trained length).
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None

    def __call__(self, plain: Array, theta: float, length: Array) -> Array:
        """Divide each frequency by the divisor of its dimension and length."""
        beyond = length > self.original_max_position_embeddings
        return plain / jnp.where(beyond, jnp.array(self.long_factor), jnp.array(self.short_factor))

    @property
    def cosine_factor(self) -> float:
        """Factor of cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


DEFAULT = Default()
SCALINGS: dict[str, type[Default]] = {
    "default": Default,
    "linear": Linear,
    "dynamic": Dynamic,
    "llama3": Llama3,
    "yarn": Yarn,
    "longrope": LongRope,
}

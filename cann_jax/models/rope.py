"""Rotary position embedding as an object that knows where its numbers come from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cann_jax.errors import InputError


@dataclass(frozen=True)
class Rope:
    """Rotary embedding in the half-rotation convention (Su et al. 2021).

    Args:
        head_dim: Size of a head; even.
        theta: Base of the geometric series of wavelengths.
    """

    head_dim: int
    theta: float

    @classmethod
    def from_hf(cls, config: dict, head_dim: int, source: str) -> "Rope":
        """Read ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before).

        Raises:
            InputError: the scaling is one that is not implemented, or the base is no positive number.
        """
        parameters = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise InputError(
                f"{source}: RoPE scaling {kind!r} is not supported; use a model with rope_type 'default'"
            )
        if parameters.get("partial_rotary_factor", 1) != 1:
            raise InputError(
                f"{source}: partial_rotary_factor is not supported; use a model that rotates whole heads"
            )
        theta = parameters.get("rope_theta", config.get("rope_theta", 10_000.0))
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 0:
            raise InputError(f"{source}: rope_theta is {theta!r}; give a positive number")
        return cls(head_dim=head_dim, theta=float(theta))

    def to_hf(self) -> dict:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": self.theta}}

    def tables(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines for ``positions (…)``, each ``(…, head_dim)`` in float32.

        Angles are float32 products of exact integers: in bfloat16, position 2,049 would already be 2,048.
        """
        frequencies = self.theta ** (-jnp.arange(0, self.head_dim, 2, dtype=jnp.float32) / self.head_dim)
        angles = positions[..., None].astype(jnp.float32) * frequencies
        angles = jnp.concatenate([angles, angles], axis=-1)
        return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate ``x (…, heads, head_dim)`` by ``tables (…, head_dim)`` in float32; the result has x's dtype."""
    cos, sin = (table[..., None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([-second, first], axis=-1)
    return (x.astype(jnp.float32) * cos + rotated * sin).astype(x.dtype)

"""Checked access to the keys of a ``config.json``; each mistake is one line that names its key."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cann_jax.files.errors import InputError, shown

LARGEST = 2**31 - 1  # sizes of arrays are 32 bits
REMEDY = "use the config.json that belongs to the weights"


@dataclass(frozen=True)
class ConfigReader:
    """The keys of a model's configuration; in all but ``get``, null counts as absent, as in transformers."""

    values: Mapping[str, Any]  # the file's content over the defaults that transformers gives to absent keys
    source: str  # name of the file in errors

    def get(self, key: str) -> Any:
        """Return the value, or None where the key is absent."""
        return self.values.get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number."""
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"{self.source} lacks {key!r}; {REMEDY}")
        if not is_positive(value):
            raise self.fault(key, "which is not a positive number")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self.number(key, default)
        if not isinstance(value, int) or value > LARGEST:
            raise self.fault(key, f"which is not an integer up to {LARGEST}")
        return value

    def count(self, key: str) -> int:
        """Return an integer that is at least 0."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
            raise self.fault(key, f"which is not an integer from 0 to {LARGEST}")
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean; absent is false."""
        value = self.get(key)
        if not isinstance(value, bool | None):
            raise self.fault(key, "which is neither true nor false")
        return bool(value)

    def mapping(self, key: str, inner: str | None = None) -> dict[str, Any]:
        """Return a JSON object, or the one under the key ``inner`` in it; absent is an empty one."""
        value = self.get(key)
        if inner is not None and isinstance(value, dict):
            value = value.get(inner)
        if not isinstance(value, dict | None):
            raise self.fault(key, "which is not a JSON object")
        return value or {}

    def per_layer(self, key: str, allowed: tuple[Any, ...], default: Sequence[Any]) -> list[Any]:
        """Return a list with one of the ``allowed`` values for each layer, as many as ``default`` has."""
        value, layers = self.get(key), len(default)
        value = list(default) if value is None else value
        if not isinstance(value, list) or len(value) < layers or any(one not in allowed for one in value):
            values = ", ".join(map(str, allowed))
            raise self.fault(key, f"which is not a list of {layers} values from {values}")
        return value[:layers]

    def fault(self, key: str, problem: str) -> InputError:
        """Return the error for a key whose value has a ``problem``."""
        return InputError(f"{self.source}: {key} is {shown(self.get(key))}, {problem}; {REMEDY}")


def is_positive(value: object) -> TypeGuard[float]:
    """Return whether the value is a finite number (not a boolean) greater than 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max

"""A ``config.json`` read key by key, every mistake as one line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cann_jax.files.errors import InputError

MEND = "take the file that belongs to the weights"


@dataclass(frozen=True)
class Fields:
    """The keys of a model's configuration.

    Args:
        values: The file's content over the defaults that transformers gives keys left out.
        source: What to call the file in an error.
    """

    values: Mapping[str, Any]
    source: str

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; null counts as left out, as in transformers."""
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"{self.source} lacks {key!r}; {MEND}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.fault(key, "no positive number")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.number(key, default)
        if not isinstance(value, int):
            raise self.fault(key, "no whole number")
        return value

    def count(self, key: str) -> int:
        """A whole number, 0 or more."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fault(key, "no whole number from 0 on")
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool | None):
            raise self.fault(key, "neither true nor false")
        return bool(value)

    def per_layer(self, key: str, allowed: tuple[Any, ...], layers: int, default: list) -> list:
        """A list of one value a layer."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, list) or len(value) < layers or any(one not in allowed for one in value):
            choices = ", ".join(map(str, allowed))
            raise self.fault(key, f"no list of {layers} values out of {choices}")
        return value[:layers]

    def fault(self, key: str, what: str) -> InputError:
        return InputError(f"{self.source}: {key} is {self.get(key)!r}, {what}; {MEND}")

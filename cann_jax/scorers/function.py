"""A user's own function over lists of prompts and responses."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cann_jax.config.scorers import Better
from cann_jax.files.errors import InputError
from cann_jax.files.functions import named_function
from cann_jax.files.hashes import fingerprint_file
from cann_jax.scorers.base import Context, ProbedKind, Scored, TextScorer, sign


@dataclass(frozen=True, kw_only=True)
class FunctionScorer(ProbedKind):
    """A Python function over lists of prompts and responses that returns one number each.

    Args:
        function: ``package.module:name``.
        better: Which way is better.
    """

    kind: Literal["function"] = "function"
    function: str
    better: Better

    def open(self, context: Context) -> "Function":
        return Function(named_function(self.function, f"{context.key}.function"), self, context.key)

    def identity(self, context: Context) -> dict[str, str]:
        """Return the fingerprint of the file that defines the function; what it imports is not followed."""
        function = named_function(self.function, f"{context.key}.function")
        try:
            return {context.key: fingerprint_file(inspect.getsourcefile(inspect.unwrap(function)) or "")}
        except TypeError:  # compiled, or an instance
            return {context.key: "unknown"}


@dataclass(frozen=True)
class Function(TextScorer):
    """A loaded ``FunctionScorer``: ``function(prompts, responses)`` returns one number a response."""

    function: Callable[[list[str], list[str]], Any]
    config: FunctionScorer
    key: str

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        returned = self.function(list(prompts), list(responses))
        try:
            values = np.asarray(returned)
        except ValueError:  # rows of different length
            values = np.asarray(returned, object)
        if values.shape != (len(responses),) or values.dtype.kind not in "fiub":
            raise InputError(
                f"{self.key}: {self.config.function} returned shape {values.shape} of {values.dtype} for "
                f"{len(responses)} responses; return one number a response"
            )
        return Scored(sign(self.config.better) * values.astype(np.float32))


def zero(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Return no reward: what remains is the least change of the reference that meets the constraints."""
    return np.zeros(len(responses))

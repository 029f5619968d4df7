"""A user's own function over lists of prompts and responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cann_jax.config.scorers import Better
from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError, shown
from cann_jax.files.functions import named_function, source_fingerprint, users_code
from cann_jax.scorers.base import Context, ProbedKind, Scored, TextScorer, sign

SHORT = ("Yes.", "I do not know!")  # responses that a function is tried on before there are any


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
        return {context.key: source_fingerprint(function) or "unknown"}


@dataclass(frozen=True)
class Function(TextScorer):
    """A loaded ``FunctionScorer``: ``function(prompts, responses)`` returns one number a response."""

    function: Callable[[list[str], list[str]], Any]
    config: FunctionScorer
    key: str

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        called = f"{self.key}: {self.config.function}, called with lists of prompts and responses,"
        with users_code(called):
            returned = self.function(list(prompts), list(responses))
        try:
            values = np.asarray(returned)
        except ValueError:  # rows of different length
            values = np.asarray(returned, object)
        if values.shape != (len(responses),) or values.dtype.kind not in "fiub":
            raise InputError(
                f"{self.key}: {self.config.function} returned {shown(returned)}, of shape {values.shape} and "
                f"type {values.dtype}, for {len(responses)} responses; return one number a response"
            )
        return Scored(sign(self.config.better) * values.astype(np.float32))

    def expect(self, prompts: Sequence[Prompt], responses: int) -> str | None:
        """Call the function once, with two of the run's prompts and short responses."""
        some = [prompt.text for prompt in prompts[:2]]
        values = self.score_texts(some, SHORT[: len(some)]).values
        if not np.all(np.isfinite(values)):
            raise InputError(
                f"{self.key}: {self.config.function} returned {shown(values.tolist())} for the responses "
                f"{shown(SHORT)}; return a finite number for every response"
            )
        return None


def zero(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Return no reward: what remains is the least change of the reference that meets the constraints."""
    return np.zeros(len(responses))

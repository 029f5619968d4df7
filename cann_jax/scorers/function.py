"""A user's own function over lists of prompts and responses."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cann_jax.config.scorers import FunctionScorer
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.scorers.base import Scored, run_probe, score_flat


@dataclass(frozen=True)
class Function:
    """Scores by ``function(prompts, responses)``, one number a response, turned so that larger is better."""

    function: Callable
    config: FunctionScorer
    key: str

    @classmethod
    def load(cls, config: FunctionScorer, key: str) -> "Function":
        """Raises InputError where the function cannot be found or the probe fails."""
        scorer = cls(find_function(config.function, key), config, key)
        run_probe(scorer, config.probe, key)
        return scorer

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        return score_flat(self, responses)

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
        sign = 1 if self.config.better == "higher" else -1
        return Scored(sign * values.astype(np.float32))


def find_function(name: str, key: str) -> Callable:
    """The function ``package.module:name``, also of a module in the working folder.

    Raises:
        InputError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise InputError(f"{key}.function is {name!r}; write package.module:name")
    if os.getcwd() not in sys.path:  # a user's own module lies beside the configuration
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{key}.function {name!r} cannot be imported ({error}); check the spelling"
        ) from None
    if not callable(function):
        raise InputError(f"{key}.function {name!r} is no function; name one")
    return function


def zero(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """No reward at all: what is left is the least change of the reference that meets the constraints."""
    return np.zeros(len(responses))

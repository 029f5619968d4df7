"""A user's own function that is called after each step."""

from collections.abc import Callable, Mapping
from typing import Any

from cann_jax.training.trackers.base import Tracker


class Hook(Tracker):
    """Calls ``function(stage, step, values)``; what that raises stops the run."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Call the function."""
        self.function(stage, step, dict(values))

"""A user's own function that is called after each step."""

from collections.abc import Callable, Mapping
from typing import Any

from cann_jax.files.functions import users_code
from cann_jax.training.trackers.base import Tracker


class Hook(Tracker):
    """Calls ``function(stage, step, values)``; what that raises stops the run.

    Args:
        function: The function.
        name: Its name in the configuration.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Call the function."""
        with users_code(f"on_step: {self.name}, called with stage, step and values,"):
            self.function(stage, step, dict(values))

"""What every tracker is told, and the trackers in use."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from cann_jax.files.errors import InputError

PROJECT = "cann_jax"  # under which trackers that have projects keep all runs


@dataclass(frozen=True)
class Job:
    """What a tracker is told of a run at its start.

    Args:
        name: Its name.
        id: Text that a later start of the same run has too, so that its log goes on.
        folder: Its folder.
        settings: Its configuration, by dotted key.
    """

    name: str
    id: str
    folder: epath.Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a tracker is told at a run's end.

    Args:
        texts: The verdict, in words, by name.
        values: What was asked and measured, by name.
        files: Report, results and exported models: files, and folders.
    """

    texts: Mapping[str, str]
    values: Mapping[str, float]
    files: Sequence[Path]


class Tracker:
    """One place where numbers are logged; what it does not need, it leaves out."""

    def begin(self, stage: str, folder: epath.Path, first: int) -> None:
        """A training begins, or goes on, with step ``first``."""

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the finite values of a training's step."""

    def end(self) -> None:
        """The training ended, or was stopped."""

    def conclude(self, outcome: Outcome) -> None:
        """Log what the run has come to."""

    def close(self) -> None:
        """The run ended, or was stopped."""


trackers: ContextVar[tuple[Tracker, ...]] = ContextVar("trackers", default=())
"""The trackers that trainings of this process log to."""


class Unfailing(Tracker):
    """A tracker on a service of others, whose failures are said once and stop no run."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker

    def begin(self, stage: str, folder: epath.Path, first: int) -> None:
        """Pass it on."""
        self._do(lambda: self.tracker.begin(stage, folder, first))

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Pass it on."""
        self._do(lambda: self.tracker.step(stage, step, values))

    def end(self) -> None:
        """Pass it on."""
        self._do(self.tracker.end)

    def conclude(self, outcome: Outcome) -> None:
        """Pass it on."""
        self._do(lambda: self.tracker.conclude(outcome))

    def close(self) -> None:
        """Pass it on."""
        self._do(self.tracker.close)

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except InputError:
            raise
        except Exception as error:
            self.tracker = Tracker()
            reason = f"{type(error).__name__}: {error}"
            print(f"metrics: {self.name} failed, and is told nothing more ({reason[:300]})", flush=True)

"""Which settings the stages really read, noted while they run."""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from cann_jax.run import execution
from cann_jax.run.pipeline import NO_SETTINGS, PIPELINE
from cann_jax.run.stages import reads_setting


class Recorder:
    """Notes every field of a run's configuration that a stage's function reads, by stage."""

    def __init__(self) -> None:
        self.reads: dict[str, set[str]] = defaultdict(set)
        self._stage: str | None = None
        self._keys: dict[int, str] = {}

    @contextmanager
    def recording(self) -> Iterator["Recorder"]:
        """Note what runs within this context read."""
        with pytest.MonkeyPatch.context() as patch:
            original = execution.stage_function
            patch.setattr(
                execution, "stage_function", lambda stage: self._noted(stage.name, original(stage), patch)
            )
            # What decides freshness reads the whole configuration, and is no part of a stage.
            patch.setattr(execution, "expected_of", self._paused(execution.expected_of))
            yield self

    def _noted(self, stage: str, function: Callable, patch: pytest.MonkeyPatch) -> Callable:
        def noted(run: Any) -> None:
            self._keys = {}
            self._register(run.config, "", patch)
            self._stage = stage
            try:
                function(run)
            finally:
                self._stage = None

        return noted

    def _paused(self, function: Callable) -> Callable:
        def paused(*arguments: Any) -> Any:
            stage, self._stage = self._stage, None
            try:
                return function(*arguments)
            finally:
                self._stage = stage

        return paused

    def _register(self, value: Any, key: str, patch: pytest.MonkeyPatch) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self._register(inner, f"{key}.{name}", patch)
        if not dataclasses.is_dataclass(value):
            return
        self._keys[id(value)] = key
        for field in dataclasses.fields(value):
            self._register(getattr(value, field.name), f"{key}.{field.name}" if key else field.name, patch)
        if "__getattribute__" not in vars(type(value)):
            patch.setattr(type(value), "__getattribute__", self._watched, raising=False)

    @property
    def _watched(self) -> Callable:
        def watched(settings: Any, name: str) -> Any:
            value = object.__getattribute__(settings, name)
            key = self._keys.get(id(settings)) if self._stage is not None else None
            # A cache whose key is a section compares it with the sections of other stages.
            if key is not None and sys._getframe(1).f_code.co_name not in ("__eq__", "__hash__"):
                # vars() reads every field at once.
                read = value if name == "__dict__" else {name: value}
                self.reads[self._stage] |= {
                    f"{key}.{field}" if key else field
                    for field, held in read.items()
                    if field in self._fields(settings) and not self._is_section(held)
                }
            return value

        return watched

    @staticmethod
    def _is_section(value: Any) -> bool:
        return dataclasses.is_dataclass(value) or isinstance(value, Mapping)

    @staticmethod
    def _fields(settings: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(type(settings))}

    def undeclared(self) -> list[str]:
        """What was read although the pipeline's table does not say so."""
        return sorted(
            f"{stage.name} reads {key}"
            for stage in PIPELINE
            for key in self.reads[stage.name]
            if not reads_setting(stage, key) and not key.startswith(NO_SETTINGS)
        )

"""Profiler traces of training steps, for XProf and TensorBoard."""

from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Self

import jax
from etils import epath

from cann_jax.files.console import one_line
from cann_jax.runtime import distributed

profiled: ContextVar[range] = ContextVar("profiled", default=range(0))
"""The steps that trainings write a trace of; ``--profile``."""


class Profile:
    """Writes a trace of the ``profiled`` steps below ``folder/tensorboard``, on the first process."""

    def __init__(self, folder: epath.Path):
        self.folder = folder / "tensorboard"
        self.steps = profiled.get() if distributed.is_first() else range(0)
        self.tracing: ExitStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        if self.steps:
            print(f"profile: no step of {self.steps.start} to {self.steps[-1]} was trained here", flush=True)

    def step(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Mark what a step does, within a trace; begin the trace at the first of the steps."""
        if self.tracing is None and step in self.steps:
            self.tracing = ExitStack()
            self.tracing.enter_context(jax.profiler.trace(str(self.folder)))
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end_step(self, step: int, state: Any) -> None:
        """End the trace, after the last of the steps, once that has ended on the device."""
        if self.tracing is not None and step == self.steps[-1]:
            jax.block_until_ready(state)
            self._close()

    def _close(self) -> None:
        if self.tracing is None:
            return
        tracing, self.steps, self.tracing = self.tracing, range(0), None
        try:
            tracing.close()
        except jax.errors.JaxRuntimeError as error:  # a full disk; the training is worth more than its trace
            reason = one_line(str(error), 200)
            print(f"profile: no trace was written to {self.folder} ({reason})", flush=True)
        else:
            print(f"profile: {self.folder}", flush=True)

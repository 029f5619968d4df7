"""Weights & Biases, and Trackio, which is told the same through functions of the same names."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from cann_jax.files.paths import is_remote
from cann_jax.training.trackers.base import PROJECT, Job, Outcome, Tracker


class WandB(Tracker):
    """Logs to wandb; ``WANDB_MODE=offline`` keeps it on this machine, in the run's folder."""

    def __init__(self, module: Any, job: Job) -> None:
        folder = None if is_remote(job.folder) else str(job.folder)
        given = {"project": PROJECT, "name": job.name, "config": dict(job.settings)}
        self.module = module
        self.run = module.init(**given, id=job.id, resume="allow", dir=folder)

    def begin(self, stage: str, folder: epath.Path, first: int) -> None:
        """Give the stage an axis of steps of its own."""
        self.run.define_metric(f"{stage}/step")
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values."""
        self.run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in values.items()})

    def conclude(self, outcome: Outcome) -> None:
        """Set the summary, and log the files as one artifact."""
        self.run.summary.update({**outcome.texts, **outcome.values})
        self.run.log_artifact(_artifact(self.module, self.run.id, outcome))

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class Trackio(Tracker):
    """Logs to Trackio, which keeps it on this machine."""

    def __init__(self, module: Any, job: Job) -> None:
        given = {"project": PROJECT, "name": f"{job.name}-{job.id}", "config": dict(job.settings)}
        self.module, self.id = module, job.id
        # Of the machine, nothing: it would be measured in a thread of its own.
        module.init(**given, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values; all stages share the axis of steps, so that their own is a value too."""
        self.module.log({f"{stage}/step": step} | {f"{stage}/{key}": value for key, value in values.items()})

    def conclude(self, outcome: Outcome) -> None:
        """Log the values and texts, and the files as one artifact."""
        self.module.log({**outcome.values, **outcome.texts})
        self.module.log_artifact(_artifact(self.module, self.id, outcome))

    def close(self) -> None:
        """Finish the run."""
        self.module.finish()


def _artifact(module: Any, name: str, outcome: Outcome) -> Any:
    found = module.Artifact(f"{name}-outcome", type="model")
    for path in outcome.files:
        found.add_dir(str(path), path.name) if path.is_dir() else found.add_file(str(path))
    return found

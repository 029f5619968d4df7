"""MLflow, at ``MLFLOW_TRACKING_URI`` or on this machine."""

from collections.abc import Mapping
from typing import Any

from cann_jax.training.trackers.base import PROJECT, Job, Outcome, Tracker

TAG = "cann_jax.id"  # by which a later start of a run finds its log
LONGEST = 500  # characters of a setting


class MLflow(Tracker):
    """Logs to an MLflow run of its own, which nothing else in the process uses."""

    def __init__(self, module: Any, job: Job) -> None:
        self.client = client = module.MlflowClient()
        experiment = client.get_experiment_by_name(PROJECT)
        owner = client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
        found = client.search_runs([owner], f"tags.`{TAG}` = '{job.id}'", max_results=1)
        self.id = found[0].info.run_id if found else self._new(owner, job)
        client.update_run(self.id, status="RUNNING")

    def _new(self, owner: str, job: Job) -> str:
        run = self.client.create_run(owner, run_name=job.name, tags={TAG: job.id})
        for key, value in job.settings.items():
            self.client.log_param(run.info.run_id, key, str(value)[:LONGEST])
        return str(run.info.run_id)

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values."""
        for name, value in values.items():
            self.client.log_metric(self.id, f"{stage}/{name}", value, step=step)

    def conclude(self, outcome: Outcome) -> None:
        """Log values as metrics, texts as tags, and the files as artifacts."""
        for name, value in outcome.values.items():
            self.client.log_metric(self.id, name, value)
        for name, text in outcome.texts.items():
            self.client.set_tag(self.id, name, text)
        for path in outcome.files:
            if path.is_dir():
                self.client.log_artifacts(self.id, str(path), path.name)
            else:
                self.client.log_artifact(self.id, str(path))

    def close(self) -> None:
        """End the run."""
        self.client.set_terminated(self.id)

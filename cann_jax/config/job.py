"""What a run and the training of a score model have in common."""

from dataclasses import dataclass, field

from cann_jax.config.mesh import DistributedConfig, MeshConfig
from cann_jax.config.model import ModelConfig
from cann_jax.config.ranges import FolderName, Seed, Text
from cann_jax.config.tracking import TrackerNames


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """A job with a folder of its own.

    Args:
        name: The job's folder is ``run_dir/name``.
        model: The model that it starts from.
        mesh: Devices by axis.
        distributed: Processes of one job.
        run_dir: Folder of all jobs.
        seed: Seed of every random choice.
        metrics: Where each step's numbers are logged: ``jsonl`` (always), ``tensorboard``, ``wandb``,
            ``trackio`` and ``mlflow``. The last three get verdict, report and exported models too.
        on_step: A function of yours, ``package.module:name``, that is called after each step with stage, step
            and values.
    """

    name: FolderName
    model: ModelConfig
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    run_dir: Text = "runs"
    seed: Seed = 0
    metrics: TrackerNames = ("jsonl", "tensorboard")
    on_step: Text | None = None

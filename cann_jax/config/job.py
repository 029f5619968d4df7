"""What a run and the training of a score model have in common."""

from dataclasses import dataclass, field

from cann_jax.config.mesh import DistributedConfig, MeshConfig
from cann_jax.config.model import ModelConfig
from cann_jax.config.ranges import FolderName, Seed, Text


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
    """

    name: FolderName
    model: ModelConfig
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    run_dir: Text = "runs"
    seed: Seed = 0

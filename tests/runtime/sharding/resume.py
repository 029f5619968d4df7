"""A few steps of full fine-tuning by the real loop, begun or gone on with from a checkpoint, on any mesh.

``python -m tests.runtime.sharding.resume MODEL DATAxFSDPxTENSOR FOLDER STEPS``, in one process or several.
Beside the loop's own files the folder gets ``restored-STEP.npz``, where there was a checkpoint, and
``saved-STEP.npz``, what was left.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from cann_jax.config.mesh import DistributedConfig, MeshConfig
from cann_jax.config.training import OptimizerConfig
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.runtime import distributed
from cann_jax.runtime.mesh import make_mesh, on_mesh
from cann_jax.runtime.placement import fetch
from cann_jax.training.checkpoints import Checkpoints
from cann_jax.training.loop import Pace, fit
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_objective import PreferenceObjective
from cann_jax.training.step import start
from tests.runtime.sharding.program import assert_lies_by_the_table, preferences

TOTAL = 6  # steps that the schedule is made for


def main(model: str, mesh: str, folder: str, steps: str) -> None:
    sizes = MeshConfig(*map(int, mesh.split("x")))
    with distributed.joined(DistributedConfig(timeout_seconds=60)):
        devices = jax.devices()[:1] if mesh == "1x1x1" else None
        with on_mesh(make_mesh(sizes, devices)):
            train(model, Path(folder), int(steps))


def train(model: str, folder: Path, steps: int) -> None:
    decoder = load_decoder(open_model(model), "float32", None, wide=True)
    graph, weights, frozen = nnx.split(decoder, nnx.Param, ...)
    schedule = optimizer(OptimizerConfig(learning_rate=3e-3, warmup_steps=1), TOTAL)
    spec = PreferenceObjective(
        graph, schedule, rematerialise="everything", accumulation=2, loss="dpo", beta=0.3, chunks=4
    )
    batch, seed = preferences(), jax.random.key(7)
    state, pace = start(spec, weights), Pace("resume", "learning_rate", steps, steps, 2, flops=1.0)
    with Checkpoints(folder / "checkpoints", 2, steps) as checkpoints:
        restored = checkpoints.restore(state)
    if restored is not None:
        assert_lies_by_the_table(restored)
        dump(restored, folder, "restored")
    state = fit(spec, state, frozen, lambda _: batch, seed, pace, folder)
    dump(state, folder, "saved")


def dump(state, folder: Path, name: str) -> None:
    leaves = [fetch(leaf) for leaf in jax.tree.leaves(state)]
    if distributed.is_first():
        np.savez(folder / f"{name}-{int(state.step)}.npz", *leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])

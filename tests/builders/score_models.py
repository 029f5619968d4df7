"""Tiny random score models on disk in both layouts, and what torch makes of them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel

from tests.builders.models import SHAPE, tiny_tokenizer

NORMALIZER = {"normalizer.mean": 1.5, "normalizer.var": 4.0, "normalizer.count": 7}


def save_classifier(folder: Path, **changes) -> Path:
    """``LlamaForSequenceClassification`` with one label."""
    torch.manual_seed(3)
    shape = {"vocab_size": 300, "num_labels": 1, "pad_token_id": 1, **SHAPE, **changes}
    model = LlamaForSequenceClassification(LlamaConfig(**shape))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_safe_rlhf(folder: Path, bias: bool = False, tensors: dict | None = None, **fields) -> Path:
    """Safe-RLHF's layout: ``model.*`` and ``score_head.*``, perhaps with the normalizer's buffers.

    Args:
        folder: Where to.
        bias: Whether the head has one.
        tensors: Further tensors, by name.
        fields: Further fields of ``config.json``.
    """
    save_classifier(folder)
    weights = load_file(folder / "model.safetensors")
    weights["score_head.weight"] = weights.pop("score.weight")
    if bias:
        weights["score_head.bias"] = torch.tensor([0.75])
    for name, value in (tensors or {}).items():
        weights[name] = torch.tensor([value])
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LlamaForScore"], "score_dim": 1, **fields}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def head_outputs(folder: Path, rows: list[np.ndarray], head: str) -> np.ndarray:
    """transformers' ``LlamaModel`` and a linear head at each row's last token, one row at a time."""
    weights = load_file(folder / "model.safetensors")
    model = LlamaModel(LlamaConfig(**{"vocab_size": 300, **SHAPE}))
    model.load_state_dict({n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")})
    bias = weights.get(f"{head}.bias", torch.zeros(1))
    with torch.no_grad():
        states = [model(torch.tensor(row[None].astype(np.int64))).last_hidden_state[0, -1] for row in rows]
        return np.array([float(weights[f"{head}.weight"][0] @ state + bias[0]) for state in states])


def classifier_outputs(folder: Path, rows: list[np.ndarray]) -> np.ndarray:
    """The same by ``LlamaForSequenceClassification`` itself."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.array([float(model(torch.tensor(row[None].astype(np.int64))).logits[0, 0]) for row in rows])

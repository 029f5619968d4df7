"""A tiny random model of every family, and both sides' logits and layers of padded batches."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.decoder import Decoder
from tests.builders.forward import torch_model
from tests.builders.models import SHAPE, tiny_tokenizer

WINDOW = 5  # shorter than every sequence of these tests
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen3": {"head_dim": 32},
    "smollm3": {"no_rope_layer_interval": 2},
    "gemma2": {
        "sliding_window": WINDOW,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {
        "sliding_window": WINDOW,
        "sliding_window_pattern": 3,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
    },
    "olmo2": {},
    "phi3": {
        "sliding_window": WINDOW,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75},
    },
}


def longrope(trained: int) -> dict:
    """Return the settings of a Phi-3 whose angles change beyond this length."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": trained,
    }
    outer = {"original_max_position_embeddings": trained, "partial_rotary_factor": 1.0}
    return {"rope_parameters": rope, **outer}


def save_family(folder: Path, family: str, **changes) -> Path:
    """Write a seeded random torch model of the family, and a tokenizer; nothing in it is zero or one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": 4, "vocab_size": 304, "pad_token_id": 1}
    config = AutoConfig.for_model(family, **{**shape, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += torch.empty_like(parameter).uniform_(-0.5, 0.5)
            if "bias" in name:
                parameter.uniform_(-1, 1)
            if "embed" in name:
                parameter[1] = parameter[2]  # transformers sets padding's row to zero
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Batch(NamedTuple):
    """Rows of different lengths.

    Args:
        ids: (B, S).
        valid: (B, S), False on padding.
        positions: (B, S), 0 on padding.
    """

    ids: np.ndarray
    valid: np.ndarray
    positions: np.ndarray


def padded(side: str, offset: int = 0, lengths: tuple[int, ...] = (17, 9, 13)) -> Batch:
    """Random rows padded on one side, the first token at position ``offset``."""
    size = max(lengths)
    ids = np.random.default_rng(0).integers(0, 300, (len(lengths), size))
    valid = np.arange(size) < np.array(lengths)[:, None]
    if side == "left":
        valid = valid[:, ::-1]
    positions = np.where(valid, np.cumsum(valid, axis=1) - 1 + offset, 0)
    return Batch(ids, valid, positions)


def ours(decoder: Decoder, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, vocabulary) and hidden states (layers, n, hidden) of the n tokens that are not padding.

    The last hidden state is that after the final norm, as in transformers.
    """
    logits, states = _ours(*nnx.split(decoder), *map(jnp.asarray, batch))
    return np.asarray(logits)[batch.valid], np.asarray(states)[:, batch.valid]


@partial(jax.jit, static_argnames="graph")
def _ours(graph, weights, ids, valid, positions):
    decoder = nnx.merge(graph, weights)
    _, states = decoder.forward(ids, positions, causal_mask(valid), keep=lambda x, _: x)
    hidden = decoder.final_norm(states[-1])
    return decoder.logits(hidden), states.at[-1].set(hidden)


def theirs(folder: Path, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the same, computed by transformers on torch."""
    import torch

    with torch.no_grad():
        out = torch_model(folder)(
            torch.tensor(batch.ids),
            attention_mask=torch.tensor(batch.valid.astype(int)),
            position_ids=torch.tensor(batch.positions),
            output_hidden_states=True,
        )
    states = np.stack([state.numpy() for state in out.hidden_states[1:]])
    return out.logits.numpy()[batch.valid], states[:, batch.valid]

"""Logits of whole sequences, by the decoder and by transformers on torch."""

import json
import shutil
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model


def our_logits(
    decoder: Decoder, ids: np.ndarray, positions: np.ndarray | None = None, key=None
) -> np.ndarray:
    """float32 logits (B, S, vocabulary) of full sequences."""
    positions = np.broadcast_to(np.arange(ids.shape[1]) if positions is None else positions, ids.shape)
    return np.asarray(_logits(*nnx.split(decoder), jnp.asarray(ids), jnp.asarray(positions), key))


@partial(jax.jit, static_argnames="graph")
def _logits(graph, weights, ids, positions, key):
    decoder = nnx.merge(graph, weights)
    mask = causal_mask(jnp.ones(ids.shape, bool))
    return decoder.logits(decoder.forward(ids, positions, mask, key)[0])


def folder_logits(folder: Path, ids: np.ndarray, dtype: str = "float32") -> np.ndarray:
    return our_logits(load_decoder(open_model(str(folder)), dtype), ids)


@cache
def torch_model(folder: Path, **kwargs):
    """The folder by ``AutoModelForCausalLM`` in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **kwargs
    )


def torch_logits(folder: Path, ids: np.ndarray, positions: np.ndarray | None = None, **kwargs) -> np.ndarray:
    """The same by transformers on torch; ``kwargs`` go to ``from_pretrained``."""
    import torch

    model = torch_model(folder, **kwargs)
    positions = np.broadcast_to(np.arange(ids.shape[1]) if positions is None else positions, ids.shape)
    size = ids.shape[1]
    # An explicit mask: without one, a jump in the positions is taken for a new sequence.
    mask = torch.where(torch.ones(size, size).tril().bool(), 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        inputs = (torch.tensor(ids, dtype=torch.long), torch.tensor(positions.copy(), dtype=torch.long))
        return model(inputs[0], position_ids=inputs[1], attention_mask=mask).logits.numpy()


def random_ids(shape: tuple[int, ...], vocabulary: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, shape)


def changed_copy(folder: Path, target: Path, **changes) -> Path:
    """A copy of a model folder whose ``config.json`` has other values."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target

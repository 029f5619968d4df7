"""Score models: a decoder with a linear head whose output at the last token is the score.

Two layouts on disk. Safe-RLHF (Dai et al. 2023): ``score_head``, perhaps with a bias and a normalizer.
Hugging Face's ``…ForSequenceClassification`` with one label: ``score``, read at the last token that is not
padding.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from cann_jax.data.padding import bucketed
from cann_jax.files.errors import InputError, shown
from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.files.folder import Readers
from cann_jax.models.files.folder_files import read_json, reading
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.files.weight_names import HEAD, check_weights
from cann_jax.runtime.memory import checked
from cann_jax.runtime.placement import fetch, place_batch
from cann_jax.runtime.sharding import axis_size

SAFE_RLHF, HUGGING_FACE = "score_head", "score"
NORMALIZER = "normalizer."
EPSILON = 1e-8  # added to the normalizer's standard deviation, as Safe-RLHF does
# What the normalizer does, by ``score_type``: (subtracts the mean, divides by the standard deviation).
NORMALIZES = {"reward": (True, True), "cost": (False, True), "critic": (False, False)}


@dataclass(frozen=True)
class ScoreModelFiles:
    """A score model that was found, opened and understood, and whose weights are not yet read."""

    decoder: ModelFiles  # without an output head
    config: dict[str, Any]  # content of ``config.json``
    layout: str  # name of the head's tensors
    head: Readers  # of the head and of the normalizer


@dataclass(frozen=True)
class ScoreModel:
    """A model that scores texts given as ids: (state · head + bias - mean) / deviation."""

    graph: Any  # of the split decoder; hashable, static under jit
    weights: Any
    head: Array  # (hidden,) float32
    bias: float
    mean: float
    deviation: float
    padding: int | None  # the id that counts as padding at a text's end

    def scores(self, rows: Sequence[np.ndarray], batch: int) -> np.ndarray:
        """Return the scores (n,) float32 of n texts with end tokens, ``batch`` of similar length a call."""
        batch += -batch % axis_size("batch")
        out = np.empty(len(rows), np.float32)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(rows), batch):
            chosen = order[start : start + batch]
            # Padded with its own rows, so that the last batch does not compile a new shape.
            out[chosen] = self._batch([rows[int(i)] for i in np.resize(chosen, batch)])[: len(chosen)]
        return ((out + self.bias - self.mean) / self.deviation).astype(np.float32)

    def _batch(self, rows: list[np.ndarray]) -> np.ndarray:
        ids, lengths = bucketed(rows)
        last = np.array([_last(row, self.padding) for row in rows])
        return fetch(_head_outputs(self.graph, self.weights, self.head, *place_batch([ids, lengths, last])))


def open_score_model(path: str, revision: str | None, key: str) -> ScoreModelFiles:
    """Find a score model, read its configuration, tokenizer and list of tensors, and check their shapes.

    ``path`` is a folder, or ``owner/name`` on the Hub; ``key`` is its configuration key, for messages.

    Raises:
        InputError: It is not a score model, has several scores, or is refused by ``open_model``.
    """
    files = open_model(path, revision)
    layout = next((name for name in (SAFE_RLHF, HUGGING_FACE) if f"{name}.weight" in files.readers), None)
    if layout is None or not files.path.is_dir():
        raise InputError(
            f"{key}: {files.path} has neither score_head.weight nor score.weight; use a score model"
        )
    base, head = dict(files.readers), Readers()
    base.pop(HEAD.name, None)  # of the language model that it was trained from; no score reads it
    for name in files.readers:
        if name.startswith((f"{layout}.", NORMALIZER)):
            head[name] = base.pop(name)
    _check_head(files, head, layout)
    decoder = dataclasses.replace(files, readers=base, config=dataclasses.replace(files.config, tied=True))
    check_weights({name: reader.shape for name, reader in base.items()}, decoder.config, str(files.path))
    return ScoreModelFiles(decoder, read_json(files.path / "config.json"), layout, head)


def _check_head(files: ModelFiles, head: Readers, layout: str) -> None:
    moments = ("mean", "var", "count") if layout == SAFE_RLHF else ()
    expected = {f"{layout}.weight": (1, files.config.hidden), f"{layout}.bias": (1,)}
    expected |= {f"{NORMALIZER}{name}": (1,) for name in moments}
    for name, reader in head.items():
        if name not in expected:
            raise InputError(f"{files.path}: {name} has no place in a score model; use files of one model")
        if reader.shape != expected[name]:
            raise InputError(
                f"{files.path}: {name} has shape {reader.shape}, one score needs {expected[name]}; "
                "use a model with one score (score_dim or num_labels 1)"
            )


def load_score_model(files: ScoreModelFiles, dtype: str) -> ScoreModel:
    """Read the weights.

    Raises:
        InputError: The normalizer's kind is unknown, or as ``load_decoder``.
    """
    normalizer = _normalizer(files)
    kernel, bias = files.head[f"{files.layout}.weight"], files.head.get(f"{files.layout}.bias")
    head, offset = jnp.asarray(kernel()[0], jnp.float32), 0.0 if bias is None else float(bias()[0])
    padding = files.config.get("pad_token_id") if files.layout == HUGGING_FACE else None
    return ScoreModel(*nnx.split(load_decoder(files.decoder, dtype)), head, offset, *normalizer, padding)


def _normalizer(files: ScoreModelFiles) -> tuple[float, float]:
    """Return what is subtracted and what divides; only Safe-RLHF has them, where ``do_normalize`` is true."""
    if files.layout != SAFE_RLHF or not files.config.get("do_normalize"):
        return 0.0, 1.0
    kind = files.config.get("score_type", "reward")
    if kind not in NORMALIZES:
        raise InputError(
            f"{files.decoder.path}: score_type {shown(kind)} is not supported; "
            f"use one of {', '.join(NORMALIZES)}"
        )
    subtracts, divides = NORMALIZES[kind]
    mean, variance = (_moment(files, name, default) for name, default in (("mean", 0.0), ("var", 1.0)))
    return mean if subtracts else 0.0, variance**0.5 + EPSILON if divides else 1.0


def _moment(files: ScoreModelFiles, name: str, default: float) -> float:
    """Read a moment from the weights, else from the configuration, which holds a list of one number."""
    reader = files.head.get(f"{NORMALIZER}{name}")
    value = files.config.get(name) if reader is None else reader()
    with reading(files.decoder.path, f"has a normalizer whose {name} is no number", "use files of one model"):
        return default if value is None else float(np.asarray(value, np.float32).reshape(-1)[0])


def _last(row: np.ndarray, padding: int | None) -> int:
    """Return the index of the last token that is not padding; 0 where all are, as in transformers."""
    real = np.arange(len(row)) if padding is None else np.flatnonzero(row != padding)
    return int(real[-1]) if len(real) else 0


@checked
@partial(jax.jit, static_argnames="graph")
def _head_outputs(graph: Any, weights: Any, head: Array, ids: Array, lengths: Array, last: Array) -> Array:
    """Return the head's float32 output (B,) at the last tokens."""
    decoder = nnx.merge(graph, weights)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = decoder.forward(ids, positions, causal_mask(positions < lengths[:, None]))
    return jnp.sum(hidden[jnp.arange(len(ids)), last] * head, axis=-1)

"""Writing a model as a Hugging Face folder."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array
from numpy.typing import DTypeLike
from safetensors.numpy import save_file

from cann_jax.files.atomic import staged, write_json, writes_here, writing
from cann_jax.models.bfloat16_words import from_words
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.generation import GENERATION
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import ArrayPath, Weight, base_state, fused_weights, lora_at
from cann_jax.runtime.placement import fetch

SHARD_BYTES = 4 << 30


def export_folder(
    decoder: Decoder, files: ModelFiles, folder: Path, dtype: str = "float32", stop: Sequence[int] = ()
) -> None:
    """Write ``folder`` so that ``AutoModelForCausalLM.from_pretrained`` opens it, chat template included.

    ``files`` are those of the model that it was trained from, whose tokenizer, end tokens and settings of
    generation it keeps. Tokens of ``stop`` end what it generates too; they are no ends of a turn, which
    ``config.json`` names. Adapters are merged in float32 and then cast to ``float32``, ``float16`` or
    ``bfloat16``.
    """
    ids = special_ids(files.tokenizer, files.ends)
    config = {**decoder.config.to_hf(), **ids, "dtype": dtype}
    write_folder(folder, config, iterate_weights(decoder, storage_dtype(dtype)), files.tokenizer)
    generating = special_ids(files.tokenizer, sorted({*files.ends, *stop}))
    given = {name: index for name, index in generating.items() if index is not None}
    write_json(folder / GENERATION, {**files.generation, **given})


def special_ids(tokenizer: Any, ends: Sequence[int]) -> dict[str, int | list[int] | None]:
    """Return the special ids that ``config.json`` holds too: the tokenizer's, and every end of a response.

    The tokenizer may declare no end token where the model has one.
    """
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**ids, "eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), ids["eos_token_id"])}


def storage_dtype(dtype: str) -> np.dtype:
    """Return the NumPy dtype of a name; ``bfloat16`` is one that NumPy does not know itself."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def write_folder(
    folder: Path, config: dict[str, Any], weights: Iterable[tuple[str, np.ndarray]], tokenizer: Any
) -> None:
    """Write ``config.json``, safetensors shards and the tokenizer; weights are taken one at a time."""
    if not writes_here.get():
        for _ in weights:  # the process that writes needs this host's parts of them
            pass
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.safetensors"):
            stale.unlink()
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        with staged(folder) as local:
            tokenizer.save_pretrained(local)
        _write_shards(weights, folder)


def _write_shards(weights: Iterable[tuple[str, np.ndarray]], folder: Path) -> None:
    places: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in weights:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            _save(shard, places, folder)
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    _save(shard, places, folder)
    index = {"metadata": {"format": "pt"}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _save(shard: dict[str, np.ndarray], places: dict[str, str], folder: Path) -> None:
    file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
    with staged(folder / file) as local:
        save_file(shard, local, metadata={"format": "pt"})
    places.update(dict.fromkeys(shard, file))


def iterate_weights(decoder: Decoder, dtype: DTypeLike) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the Hugging Face name and array of every weight, adapters merged, one tensor at a time."""
    state = base_state(decoder)
    for group in fused_weights(decoder.config):
        for layer, name in enumerate(group[0].names(decoder.config)):
            parts = [_tensor(decoder, state, weight, layer) for weight in group]
            # safetensors writes memory in its physical order, whatever the strides say.
            yield name, np.ascontiguousarray(np.concatenate(parts)).astype(dtype)


def _tensor(decoder: Decoder, state: dict[ArrayPath, Array], weight: Weight, layer: int) -> np.ndarray:
    """Return one layer's array as Hugging Face stores it."""
    index = layer if weight.stacked else slice(None)
    tensor = fetch(from_words(state[weight.path][index])).astype(np.float32)
    lora = lora_at(decoder, weight.path)
    if lora is not None:
        a, b = (fetch(half[...][index]).astype(np.float32) for half in (lora.a, lora.b))
        tensor = tensor + a @ b * lora.scale
    return tensor.T if weight.transpose else tensor

"""Writing a model as a Hugging Face folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cann_jax.files.atomic import staged, write_json, writes_here, writing
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.weights import iterate_weights

SHARD_BYTES = 4 << 30


def export_folder(decoder: Decoder, tokenizer: Any, folder: Path, dtype: str = "float32") -> None:
    """Write ``folder`` so that ``AutoModelForCausalLM.from_pretrained`` opens it.

    Args:
        decoder: The model; adapters are merged in float32 and then cast.
        tokenizer: Saved beside it, chat template included.
        folder: Created where it does not exist.
        dtype: Dtype on disk: ``float32``, ``float16`` or ``bfloat16``.
    """
    ids = special_ids(tokenizer)
    config = {**decoder.config.to_hf(), **ids, "dtype": dtype}
    write_folder(folder, config, iterate_weights(decoder, storage_dtype(dtype)), tokenizer)
    write_json(folder / "generation_config.json", ids)


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """Return the tokenizer's special ids that ``config.json`` holds too."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


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

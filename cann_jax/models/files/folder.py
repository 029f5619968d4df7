"""Where weights come from: a folder of safetensors or pickled shards, or a GGUF file; all end as readers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from cann_jax.files.errors import InputError
from cann_jax.models.files.pickled import pickled_tensors

Index = tuple[slice, ...]  # of the first so many dimensions; () is everything


class Reader(NamedTuple):
    """A tensor that lies in a file; calling it reads it, or the part of it at an index."""

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    def __call__(self, index: Index = ()) -> np.ndarray:
        return self.read(index)


Readers = dict[str, Reader]

# Names of weights in the order in which transformers looks for them; a folder of pickles may hold others
# that are no weights (optimizer.bin, training_args.bin).
LAYOUTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
SHARDS = {".safetensors": "*", ".bin": "pytorch_model*"}

GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
GGUF_BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def read_json(path: Path) -> dict:
    """A JSON object of a model folder.

    Raises:
        InputError: the file is missing, no JSON, or JSON of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; copy the whole folder") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} in place of a JSON object; copy it again")
    return value


def folder_files(folder: Path) -> list[Path]:
    """The files of a folder that hold weights, by its index where there is one; safetensors come first.

    Raises:
        InputError: there is none, one that the index names is missing, or the index leaves one out that
            transformers would read in its place.
    """
    for stem, suffix in LAYOUTS:
        index, single = folder / f"{stem}{suffix}.index.json", folder / f"{stem}{suffix}"
        if index.exists():
            return _indexed_files(index, single)
        names = sorted(path.name for path in folder.glob(f"{SHARDS[suffix]}{suffix}"))
        if names:
            return [folder / name for name in names]
    raise InputError(f"{folder}: model.safetensors is missing; copy the whole folder")


def _indexed_files(index: Path, single: Path) -> list[Path]:
    folder, names = index.parent, _indexed(index)
    if single.exists() and single.name not in names:
        raise InputError(f"{folder} holds {single.name} and an index of other files; remove the stale one")
    missing = [name for name in names if not (folder / name).exists()]
    if missing or not names:
        raise InputError(f"{folder}: {', '.join(missing) or single.name} is missing; copy the whole folder")
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} has no weight_map of file names; copy it again")
    return sorted(set(places.values()))


def folder_readers(files: list[Path]) -> Readers:
    """A reader for every tensor of ``files``, safetensors or pickles.

    Raises:
        InputError: a corrupt file, a tensor that two files hold, or a pickle of anything but tensors.
    """
    readers: Readers = {}
    for path in files:
        found = _pickled(path) if path.suffix == ".bin" else _safetensors(path)
        for name in found:
            if name in readers:
                raise InputError(
                    f"{path}: {name} stands in another file of the folder too; remove the stale file"
                )
        readers |= found
    return readers


def _pickled(path: Path) -> Readers:
    return {name: Reader(tensor.shape, tensor.read) for name, tensor in pickled_tensors(path).items()}


def _safetensors(path: Path) -> Readers:
    try:
        with safe_open(path, framework="flax") as file:
            return {
                name: Reader(tuple(file.get_slice(name).get_shape()), partial(_read_tensor, path, name))
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or corrupt ({error}); copy it again") from None


def _read_tensor(path: Path, name: str, index: Index) -> np.ndarray:
    # framework "flax" because numpy's own reader knows no bfloat16.
    with safe_open(path, framework="flax") as file:
        return np.asarray(file.get_slice(name)[index] if index else file.get_tensor(name))


def gguf_metadata(path: Path):
    """The open GGUF file and its metadata as a plain dictionary.

    Raises:
        InputError: the file is missing, truncated or no GGUF file.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; model.path must name a folder or a .gguf file") from None
    except (ValueError, IndexError, OSError, KeyError) as error:
        raise InputError(f"{path} is truncated or no GGUF file ({error}); copy it again") from None
    return reader, {key: field.contents() for key, field in reader.fields.items()}


def gguf_config(metadata: dict, tied: bool, path: Path) -> dict:
    """The ``config.json`` that a GGUF file's metadata stands for.

    Raises:
        InputError: an architecture other than llama, a scaled RoPE, or a missing key.
    """
    if metadata.get("general.architecture") != "llama":
        kind = metadata.get("general.architecture")
        raise InputError(f"{path}: architecture {kind!r} is not supported; supported is 'llama'")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise InputError(f"{path}: RoPE scaling {scaling!r} is not supported; supported is none")
    try:
        heads = metadata["llama.attention.head_count"]
        hidden = metadata["llama.embedding_length"]
        head_dim = metadata.get("llama.attention.key_length", hidden // heads)
        if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
            raise InputError(f"{path}: RoPE over a part of each head is not supported; use another model")
        return {
            "model_type": "llama",
            "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
            "hidden_size": hidden,
            "intermediate_size": metadata["llama.feed_forward_length"],
            "num_hidden_layers": metadata["llama.block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
            "head_dim": head_dim,
            "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
            "rope_theta": metadata.get("llama.rope.freq_base", 10_000.0),
            "max_position_embeddings": metadata["llama.context_length"],
            "tie_word_embeddings": tied,
        }
    except KeyError as missing:
        raise InputError(f"{path} lacks the key {missing}; convert the model again") from None


def gguf_readers(reader, heads: int, kv_heads: int, path: Path) -> Readers:
    """A reader for every tensor, dequantized to float32, under its Hugging Face name.

    Raises:
        InputError: a tensor whose name has no counterpart, or whose type cannot be dequantized (when read).
    """
    readers: Readers = {}
    for tensor in reader.tensors:
        name = _hugging_face_name(tensor.name)
        if name is None:
            raise InputError(
                f"{path}: tensor {tensor.name} has no place in the decoder; the file is of another model"
            )
        rows = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        shape = tuple(int(size) for size in reversed(tensor.shape))
        readers[name] = Reader(shape, partial(_dequantize, tensor, rows, path))
    return readers


def _hugging_face_name(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in GGUF_BLOCK_NAMES:
        return f"model.layers.{parts[1]}.{GGUF_BLOCK_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in GGUF_NAMES:
        return f"{GGUF_NAMES[parts[0]]}.{parts[1]}"
    return None


def _dequantize(tensor, heads: int | None, path: Path, index: Index) -> np.ndarray:
    import gguf

    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise InputError(
            f"{path}: {tensor.name} has type {kind}, which cannot be read; use another file"
        ) from None
    values = values if heads is None else _half_rotation_rows(values, heads)
    return values[index]


def _half_rotation_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head's q and k rows; put them back behind each other."""
    head_dim = values.shape[0] // heads
    pairs = values.reshape(heads, head_dim // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(values.shape)

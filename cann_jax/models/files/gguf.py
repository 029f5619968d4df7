"""GGUF files of the llama architecture: configuration, a reader for every tensor, tokenizer."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cann_jax.files.errors import InputError, cut, shown
from cann_jax.models.files.folder import Index, Reader, Readers
from cann_jax.models.files.folder_files import reading
from cann_jax.models.files.generation import declared_ends
from cann_jax.models.files.gguf_header import check_header

if TYPE_CHECKING:
    import gguf

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
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
# llama.cpp's names of how a byte-level tokenizer cuts a text before it merges.
GPT_2, DIGITS_ALONE = "gpt-2", "smollm"
_AS_GPT_2 = ("default", GPT_2)
# Those under which it takes a word whole that is a token, whatever the merges say, and puts BOS before a text
# unless the file says otherwise: without these two, a word was [ab, c] here and [BOS, abc] in llama.cpp.
_AS_LLAMA_3 = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken"),
)
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def open_gguf(path: Path) -> tuple["gguf.GGUFReader", dict[str, Any]]:
    """Return the open file and its metadata; InputError where it is missing, truncated or not a GGUF file."""
    import gguf

    if not path.is_file():
        raise InputError(f"{path} is missing; model.path must name a folder or a .gguf file")
    with reading(path, "is truncated or not a GGUF file", "copy it again"):
        check_header(path)
        file = gguf.GGUFReader(path)
        return file, {key: field.contents() for key, field in file.fields.items()}


def gguf_config(metadata: dict[str, Any], tied: bool, path: Path) -> dict[str, Any]:
    """Return the ``config.json`` that corresponds to a GGUF file's metadata.

    Raises:
        InputError: The architecture is not llama, RoPE is scaled or partial, or a key is missing.
    """
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise InputError(f"{path}: architecture {shown(kind)} is not supported; use a file of 'llama'")
    _refuse_scaled_rope(metadata, path)
    with reading(path, "lacks a key, or has one of another kind", "convert the model again"):
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


def _refuse_scaled_rope(metadata: dict[str, Any], path: Path) -> None:
    """Raise InputError if positions are scaled; older files give a factor and no type."""
    scaling = metadata.get("llama.rope.scaling.type")
    factors = [metadata.get(f"llama.rope.{key}") for key in ("scaling.factor", "scale_linear")]
    if scaling is None and any(factor not in (None, 0, 1) for factor in factors):  # llama.cpp: 0 is 1
        scaling = "linear"
    if scaling not in (None, "none"):
        raise InputError(f"{path}: RoPE scaling {shown(scaling)} is not supported; use a file without it")


def gguf_readers(file: "gguf.GGUFReader", heads: int, kv_heads: int, path: Path) -> Readers:
    """Return a reader for every tensor, dequantized to float32, under its Hugging Face name.

    Raises:
        InputError: A tensor's name has no counterpart, or (when read) its type cannot be dequantized.
    """
    readers: Readers = {}
    for tensor in file.tensors:
        name = _hugging_face_name(tensor.name, path)
        rows = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        shape = tuple(int(size) for size in reversed(tensor.shape))
        readers[name] = Reader(shape, partial(_dequantize, tensor, rows, path))
    return readers


def _hugging_face_name(name: str, path: Path) -> str:
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in BLOCK_NAMES:
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in NAMES:
        return f"{NAMES[parts[0]]}.{parts[1]}"
    raise InputError(f"{path}: tensor {cut(name)} has no place in the decoder; the file is of another model")


def _dequantize(tensor: "gguf.ReaderTensor", heads: int | None, path: Path, index: Index) -> np.ndarray:
    import gguf

    problem = f"has type {tensor.tensor_type.name}, which cannot be read"
    with reading(f"{path}: {cut(tensor.name)}", problem, "use another file"):
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return (values if heads is None else _half_rotation_rows(values, heads))[index]


def _half_rotation_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of the two halves of each head's q and k rows."""
    head_dim = values.shape[0] // heads
    pairs = values.reshape(heads, head_dim // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def gguf_tokenizer(metadata: dict[str, Any], path: Path) -> Any:
    """Return the file's tokenizer; InputError where it is of a kind that cannot be built.

    transformers' own GGUF path loads torch; its converter alone does not.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    names = {f"tokenizer.{key}": name for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()}
    parts = {name: metadata[key] for key, name in names.items() if key in metadata}
    with reading(path, "has a tokenizer that cannot be read", "use a Hugging Face folder"):
        backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], parts)
        _cut_as_declared(backend, metadata, path)
        _begin_as_declared(backend, metadata)
        tokens = metadata["tokenizer.ggml.tokens"]
        ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
        # llama.cpp adds BOS to a sentencepiece vocabulary that does not say otherwise.
        begins = metadata.get("tokenizer.ggml.model") == "llama" or _is_as_llama_3(metadata)
        bos = metadata.get("tokenizer.ggml.add_bos_token", begins)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_without_foreign_tokens(backend, len(tokens)),
            add_bos_token=bos and ids["bos_token"] is not None,
            chat_template=metadata.get("tokenizer.chat_template"),
            **{name: tokens[index] for name, index in ids.items() if index is not None},
        )
        tokenizer("x")
        return tokenizer


def _cut_as_declared(backend: Any, metadata: dict[str, Any], path: Path) -> None:
    """Let a byte-level tokenizer cut texts, and merge what it cut, as ``tokenizer.ggml.pre`` says.

    transformers' converter knows some names, cuts as GPT-2 does under every other, and merges always.

    Raises:
        InputError: Under this name a text is cut in a way not known here.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or name in (None, *_AS_GPT_2):
        return
    if name == DIGITS_ALONE:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    elif name not in GGUF_PRE_TOKENIZER_SPLITS:
        problem = f"tokenizer.ggml.pre {shown(name)} is not supported"
        raise InputError(f"{path}: {problem}; use the model's Hugging Face folder")
    backend.model.ignore_merges = _is_as_llama_3(metadata)


def _is_as_llama_3(metadata: dict[str, Any]) -> bool:
    kind, name = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    return kind == "gpt2" and name in _AS_LLAMA_3


def _begin_as_declared(backend: Any, metadata: dict[str, Any]) -> None:
    """Let a sentencepiece tokenizer put no space before a text where the file says so.

    transformers' converter puts one before every text.
    """
    from tokenizers import decoders, pre_tokenizers

    if metadata.get("tokenizer.ggml.model") == "llama" and not metadata.get(
        "tokenizer.ggml.add_space_prefix", True
    ):
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "never", split=False)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(steps)


def gguf_ends(metadata: dict[str, Any], vocabulary: int, path: Path) -> list[int]:
    """Return the file's end-of-turn and end-of-message tokens, where it has them beside its end token."""
    found = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
    return declared_ends([one for one in found if one is not None], vocabulary, str(path))


def _without_foreign_tokens(backend: Any, count: int) -> Any:
    """Remove the special tokens of the converter's own classes, whose ids the model does not have."""
    from tokenizers import Tokenizer

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < count]
    content["post_processor"] = None  # that of the class names its own special tokens too
    return Tokenizer.from_str(json.dumps(content))

"""Writing a model of the llama architecture as a GGUF file, which llama.cpp opens."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cann_jax.files.atomic import staged, writes_here, writing
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.folder import iterate_weights
from cann_jax.models.files.gguf import BLOCK_NAMES, DIGITS_ALONE, GPT_2, NAMES, open_gguf
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import base_shapes, fused_weights
from cann_jax.models.rope import Rope

if TYPE_CHECKING:
    import gguf

INSTEAD = "export merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
KEEPS = "tokenizer."  # how the keys of a GGUF file's tokenizer begin
_SHORT = {name: short for short, name in (NAMES | BLOCK_NAMES).items()}
# Names of how a byte-level tokenizer cuts a text before it merges, by the kinds of its steps.
_CUTS = {("ByteLevel",): GPT_2, ("Digits", "ByteLevel"): DIGITS_ALONE}
# Settings of a model of merges by which it merges otherwise than llama.cpp does there.
_OTHERWISE = ("byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


def check_gguf(files: ModelFiles) -> None:
    """Raise InputError if a model, or its tokenizer, cannot be written as a GGUF file."""
    config = files.config
    (kind, *others), activation = {*config.kinds}, config.activation
    scaled = kind.rope is None or kind.rope != Rope(config.head_dim, kind.rope.theta)
    if config.family != "llama" or config.biases or others or scaled or activation != "silu":
        raise InputError(
            f"export: gguf is written of Llama models without biases and scaled positions only, and this "
            f"{config.family!r} is another; {INSTEAD}"
        )
    if files.path.suffix != ".gguf":
        _cut(_tokenizer_json(files))


def export_gguf(decoder: Decoder, files: ModelFiles, path: Path, dtype: str = "float32") -> None:
    """Write one file with weights, tokenizer and chat template; adapters are merged in float32 and then cast.

    Raises:
        InputError: As ``check_gguf``.
    """
    import gguf

    check_gguf(files)
    matrix = gguf.GGMLQuantizationType.BF16 if dtype == "bfloat16" else gguf.GGMLQuantizationType.F32
    weights = iterate_weights(decoder, np.float32)
    if not writes_here.get():
        for _ in weights:  # the process that writes needs this host's parts of them
            pass
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as local:
            writer = gguf.GGUFWriter(local, "llama")
            _add_shape(writer, decoder.config)
            _add_tokenizer(writer, files)
            kinds = _add_tensors(writer, decoder.config, matrix)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in weights:  # one at a time: a 7B model is 14 GB
                data = _rotation_pairs(name, tensor, decoder.config)
                writer.write_tensor_data(gguf.quants.quantize(data, kinds[name]))
            writer.close()


def _add_shape(writer: "gguf.GGUFWriter", config: DecoderConfig) -> None:
    rope = config.kinds[0].rope
    assert rope is not None, "checked"
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope.theta)


def _add_tensors(writer: "gguf.GGUFWriter", config: DecoderConfig, matrix: Any) -> dict[str, Any]:
    """Announce every tensor, in the order of ``iterate_weights``; return each one's type on disk."""
    import gguf

    shapes, kinds = base_shapes(config), {}
    for (weight,) in fused_weights(config):
        shape = weight.on_disk_shape(shapes[weight.path])
        kind = gguf.GGMLQuantizationType.F32 if weight.wide else matrix
        size = int(np.prod(shape)) * (4 if kind == gguf.GGMLQuantizationType.F32 else 2)
        for name in weight.names(config):
            kinds[name] = kind
            writer.add_tensor_info(_gguf_name(name), shape, np.dtype(np.float32), size, raw_dtype=kind)
    return kinds


def _gguf_name(name: str) -> str:
    layer, _, rest = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    if name.startswith("model.layers."):
        return f"blk.{layer}.{_SHORT[rest]}.weight"
    return f"{_SHORT[name.removesuffix('.weight')]}.weight"


def _rotation_pairs(name: str, tensor: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """Interleave the two halves of each head's q and k rows, as llama.cpp rotates them."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _add_tokenizer(writer: "gguf.GGUFWriter", files: ModelFiles) -> None:
    if files.path.suffix == ".gguf":
        return _copy_tokenizer(writer, files.path)
    import gguf

    tokenizer, values = files.tokenizer, _tokenizer_json(files)
    special = {each["id"]: each["special"] for each in values["added_tokens"]}
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    ids = range(files.config.vocabulary)  # a model may have more rows than its tokenizer has tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(values))
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in ids])
    writer.add_token_types(
        [kinds[special.get(index)] if index in names else gguf.TokenType.UNUSED for index in ids]
    )
    writer.add_token_merges(
        [each if isinstance(each, str) else " ".join(each) for each in values["model"]["merges"]]
    )
    # One that declares no end token still has the model's; llama.cpp takes id 11 where there is none.
    eos = next(iter(files.ends), None) if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    known = {"bos": tokenizer.bos_token_id, "eos": eos, "pad": tokenizer.pad_token_id}
    further = [end for end in files.ends if end != eos]
    for name, index in (*known.items(), *zip(("eot", "eom"), further, strict=False)):
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _copy_tokenizer(writer: "gguf.GGUFWriter", path: Path) -> None:
    """Add the tokenizer of the file that the model came from, key by key."""
    import gguf

    for key, field in open_gguf(path)[0].fields.items():
        if key.startswith(KEEPS):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)


def _tokenizer_json(files: ModelFiles) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(files.tokenizer.backend_tokenizer.to_str())
    return values


def _cut(values: dict[str, Any]) -> str:
    """Return llama.cpp's name of how a tokenizer cuts texts before it merges.

    Raises:
        InputError: The tokenizer merges no bytes, or normalises, cuts or merges in a way not known here.
    """
    step = values["pre_tokenizer"] or {"type": None}
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    name = _CUTS.get(tuple(each["type"] for each in steps))
    plain = values.get("normalizer") is None and all(
        each.get("individual_digits", True)
        and each.get("use_regex", True)
        and not each.get("add_prefix_space", False)
        for each in steps
    )
    model = values["model"]
    if model["type"] != "BPE" or any(map(model.get, _OTHERWISE)) or name is None or not plain:
        raise InputError(f"export: the tokenizer is not of a kind that gguf is written of; {INSTEAD}")
    return name

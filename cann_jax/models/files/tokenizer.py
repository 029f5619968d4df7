"""The tokenizer of a model's folder, read by transformers once nothing in its files can run or grow."""

import math
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError, shown
from cann_jax.models.files.folder_files import read_json, reading

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")
LARGEST = 64 << 20  # bytes of one of them; Gemma 3's tokenizer.json, the largest of a known model, has 33
GROWTH = 1000  # how much longer a text may become; 9 is the most of a known model
# Longer by at most: bytes written as characters of two bytes, and characters by a table of the file's own.
_LONGER = {"ByteLevel": 2, "Precompiled": 16}
_STEPS = ("normalizers", "pretokenizers", "processors", "decoders")


def folder_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer; no code of the folder is run.

    Raises:
        InputError: transformers cannot read it, or one of its files asks for what no tokenizer needs.
    """
    from transformers import AutoTokenizer

    _check_sizes(folder)
    with reading(folder, "has no readable tokenizer", "copy its files again"):
        _check_classes(folder)
        _check_growth(folder / "tokenizer.json")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("x")  # settings of a wrong type are only found in use: model_max_length as a text
    return tokenizer


def _check_sizes(folder: Path) -> None:
    for name in FILES:
        if (folder / name).exists() and (folder / name).stat().st_size > LARGEST:
            raise InputError(f"{folder / name} has more than {LARGEST >> 20} MB; use a smaller tokenizer")


def _check_classes(folder: Path) -> None:
    """Check that the class named is a tokenizer: transformers would take any class or function of its own.

    ``AutoModel`` asks on the terminal whether to run the folder's code, whatever the tokenizer's loader is
    told; so does ``RagTokenizer``, for tokenizers in folders below.
    """
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    known = {*TOKENIZER_MAPPING_NAMES.values(), "PreTrainedTokenizer", "PythonBackend", "TokenizersBackend"}
    for name in ("tokenizer_config.json", "config.json"):
        given = read_json(folder / name).get("tokenizer_class") if (folder / name).exists() else None
        if given is None:
            continue
        short = given.removesuffix("Fast") if isinstance(given, str) else None
        if short in known - {"RagTokenizer"}:
            continue
        if short is None or {given, short} & set(dir(transformers)):  # for any other name there is a default
            raise InputError(
                f"{folder / name}: tokenizer_class {shown(given)} is no tokenizer; use another model"
            )


def _check_growth(path: Path) -> None:
    """Check that no step makes a text, or its tokens, many times as long: 40 of x → xx make 10¹² of one."""
    values = read_json(path, LARGEST) if path.exists() else {}
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if values.get(part) is not None and _growth(values[part]) > GROWTH:
            raise InputError(f"{path}: its {part} makes texts over {GROWTH} times as long; use another model")


def _growth(step: dict[str, Any]) -> float:
    """Return how much longer a step can make what it is given."""
    kind = step["type"]
    if kind == "Sequence":
        inner: list[dict[str, Any]] = next((step[name] for name in _STEPS if name in step), [])
        return math.prod((_growth(each) for each in inner), start=1.0)
    if kind == "Replace":
        text, pattern = len(step["content"]), step["pattern"]
        # An expression may match between any two characters.
        return max(1.0, text / len(pattern["String"])) if pattern.get("String") else 1.0 + text
    if kind == "TemplateProcessing":
        tokens = (len(token["ids"]) for token in step["special_tokens"].values())
        return float(len(step["single"]) * max(tokens, default=1))
    return _LONGER.get(kind, 1)

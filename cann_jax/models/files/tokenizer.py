"""The tokenizer of a model's folder, read by transformers once nothing in its files can run or grow."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from signal import SIGPROF
from typing import Any

from cann_jax.data.chat_templates import FROM_OUTSIDE
from cann_jax.files.errors import InputError, shown
from cann_jax.models.files.folder_files import LONGEST_JSON, MORE_TEMPLATES, read_json, reading

PROGRAM = Path(__file__).with_name("tokenizer_process.py")
# Files that transformers' tokenizers read, as patterns, with the most bytes of one: Gemma 3's tokenizer.json
# is the largest of a known model with 33 MB, and its tokenizer_config.json with 1.2 MB.
LARGEST = 64 << 20
SIZES = {
    **dict.fromkeys(("tokenizer.json", "tekken.json", "*.model", "vocab.*", "merges.txt"), LARGEST),
    **dict.fromkeys(("chat_template.jinja", f"{MORE_TEMPLATES}/*"), LONGEST_JSON),
}
TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # may name added tokens
GROWTH = 64  # how much longer a text may become; 9 is the most of a known model
# Longer by at most: bytes written as characters of two bytes, characters by a table of the file's own, and
# characters between spaces.
_LONGER = {"ByteLevel": 2, "Precompiled": 16, "BertNormalizer": 3}
_STEPS = ("normalizers", "pretokenizers", "processors", "decoders")
WORD = 200  # letters that a WordPiece model may look up; published ones have 100, and 4,000 take it 2.1 s
AFFIX = 64  # characters that a model may put to each piece of a word; published ones have "##" and "</w>"


def folder_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer; no code of the folder is run.

    Raises:
        InputError: transformers cannot read it, or one of its files asks for what no tokenizer needs.
    """
    from transformers import AutoTokenizer

    _check_sizes(folder)
    with reading(folder, "has no readable tokenizer", "copy its files again"):
        _check_classes(folder)
        path = folder / "tokenizer.json"
        values = read_json(path, LARGEST) if path.exists() else {}
        _check_growth(path, values)
        _check_model(path, values.pop("model", None) or {})
        _try_out(folder, values)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("x")  # settings of a wrong type are only found in use: model_max_length as a text
    return tokenizer


def _check_sizes(folder: Path) -> None:
    for pattern, most in SIZES.items():
        for path in folder.glob(pattern):
            if path.stat().st_size > most:
                raise InputError(f"{path} has more than {most >> 20} MB; use a smaller tokenizer")


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


def _check_growth(path: Path, values: dict[str, Any]) -> None:
    """Check that no step makes a text, or its tokens, many times as long: 40 of x → xx make 10¹² of one."""
    for parts in (("normalizer", "pre_tokenizer"), ("post_processor",), ("decoder",)):
        given = [part for part in parts if values.get(part) is not None]
        if math.prod(_growth(values[part]) for part in given) > GROWTH:
            names = " and ".join(given)
            raise InputError(
                f"{path}: its {names} may make texts over {GROWTH} times as long; use another model"
            )


def _check_model(path: Path, model: dict[str, Any]) -> None:
    """Check what a model does with a word: WordPiece takes the cube of its letters."""
    letters = model.get("max_input_chars_per_word")
    if letters is not None and letters > WORD:
        problem = f"max_input_chars_per_word is {shown(letters)}, and {WORD} are the most"
        raise InputError(f"{path}: {problem}; use another model")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(model.get(name) or "") > AFFIX:
            raise InputError(f"{path}: {name} has over {AFFIX} characters; use another model")


def _try_out(folder: Path, values: dict[str, Any]) -> None:
    """Check that the steps and added tokens of the folder's files can be made, in a process with limits.

    Nothing about an expression tells what it takes: (a|a)+$ takes 0.07 s for each word of 20 letters.
    """
    added = {text for name in TOKENS if (folder / name).exists() for text in _texts(read_json(folder / name))}
    request = {"steps": values, "tokens": sorted(added - {*_texts(values.get("added_tokens"))})}
    if said := _refusal(json.dumps(request)):
        raise InputError(f"{folder} has no readable tokenizer ({said}); use another model")


@lru_cache(8)
def _refusal(request: str) -> str:
    """Return why a request failed, or nothing; scorers and judges often have the model's own tokenizer."""
    process = _tried(request)
    if process.returncode in FROM_OUTSIDE:
        process = _tried(request)
    killed = "it takes too long" if process.returncode == -SIGPROF else "it takes too much memory"
    return process.stdout.decode(errors="replace").strip() or (killed if process.returncode else "")


def _tried(request: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-P", str(PROGRAM)],
        input=request.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value that could be a token, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each if name != "chat_template" else None)


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
    if kind == "Prepend":
        return 1.0 + len(step["prepend"])
    if kind == "TemplateProcessing":
        tokens = (len(token["ids"]) for token in step["special_tokens"].values())
        return float(len(step["single"]) * max(tokens, default=1))
    return _LONGER.get(kind, 1)

"""Files of preference data, local or on the Hugging Face Hub, and their rows."""

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cann_jax.files.errors import InputError

TRAIN: Literal["train"] = "train"
HELDOUT: Literal["heldout"] = "heldout"
_HELDOUT_WORDS = ("test", "eval", "validation", "heldout")
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_KINDS = (".parquet", ".jsonl", ".json")


def is_data(name: str) -> bool:
    """Return whether a file's name is that of a table that ``rows`` reads."""
    path = PurePosixPath(name)
    if path.suffix in _OPEN:
        path = path.with_suffix("")
    return path.suffix in _KINDS


def local_files(path: str) -> dict[str, Path]:
    """Return the data files at a path, a file or a folder, by name relative to the folder.

    Raises:
        InputError: There is no file, or none that can be read.
    """
    where = Path(path)
    if where.is_file() and is_data(where.name):
        return {where.name: where}
    files = [file for file in sorted(where.rglob("*")) if file.is_file() and is_data(file.name)]
    found = {str(file.relative_to(where)): file for file in files}
    if not found:
        raise InputError(
            f"preferences.path {path!r} is neither a .parquet, .jsonl or .jsonl.gz file nor a folder with "
            "one; check the spelling"
        )
    return found


def hub_urls(repository: str, revision: str) -> dict[str, str]:
    """Return the URLs of the data files of a data set on the Hugging Face Hub, by name.

    Raises:
        InputError: The Hub cannot be reached, or has no such data set or revision.
    """
    from huggingface_hub import HfApi, hf_hub_url

    try:
        names = HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
    except Exception as error:  # httpx, requests and the Hub's own errors share no narrower base
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the Hub does not list {repository} at {revision!r} ({reason}); "
            "give preferences.path a local copy"
        ) from None
    chosen = sorted(filter(is_data, names))
    return {name: hf_hub_url(repository, name, repo_type="dataset", revision=revision) for name in chosen}


def by_part(names: Iterable[str], subset: str | None, excluded: Iterable[str] = ()) -> dict[str, list[str]]:
    """Divide file names by part: train, or heldout for files of a test split.

    Only files below a folder named ``subset`` are taken, and none below ``excluded`` folders.

    Raises:
        InputError: No file is left.
    """
    names = list(names)
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    wanted = [name for name in names if not set(folders[name]) & set(excluded)]
    chosen = [name for name in wanted if subset is None or subset in folders[name]]
    if not chosen:
        there = ", ".join(sorted({part for name in wanted for part in folders[name]})) or "none"
        raise InputError(f"preferences.subset is {subset!r} and no folder has that name; use one of: {there}")
    parts: dict[str, list[str]] = {TRAIN: [], HELDOUT: []}
    for name in chosen:
        words = PurePosixPath(name).parts[-2:]
        heldout = any(word.lower().startswith(_HELDOUT_WORDS) for word in words)
        parts[HELDOUT if heldout else TRAIN].append(name)
    if not parts[TRAIN]:  # the only file is called test
        parts = {TRAIN: parts[HELDOUT], HELDOUT: []}
    return parts


def rows(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the rows of a file, each with its place ("file:line") for messages.

    The suffix of ``name`` gives its format; that of ``path`` may be another after a download.

    Raises:
        InputError: It cannot be read, or a line is not a JSON object.
    """
    try:
        yield from _parquet(name, path) if name.endswith(".parquet") else _json_lines(name, path)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be read ({reason}); copy the file again") from None


def _parquet(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches(1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{name}:{number}", row


def _json_lines(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opener: Callable[..., TextIO] = _OPEN.get(PurePosixPath(name).suffix, open)
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{name}:{number}", _object(f"{name}:{number}", line)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: invalid JSON ({error}); give one JSON object per line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object; give one JSON object per line")
    return row

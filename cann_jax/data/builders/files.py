"""Files of preference data, local or on the Hugging Face Hub, and their rows."""

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import pyarrow as pa
from etils import epath

from cann_jax.files.errors import InputError
from cann_jax.files.expansion import check_expansion
from cann_jax.files.json_lines import BadRow, json_object
from cann_jax.files.parquet import decoded_texts, opened
from cann_jax.files.paths import reached

Part = Literal["train", "heldout"]
TRAIN: Literal["train"] = "train"
HELDOUT: Literal["heldout"] = "heldout"
# A part is named by a word of a file's or folder's name: "dev" in "dev-v2.jsonl", not in "developers.jsonl".
_WORD = re.compile(r"held[-_ ]?out|hold[-_ ]?out|[A-Z]?[a-z]+|[A-Z]+")
_NAMES = {
    TRAIN: re.compile(r"(train|trn|training)(set)?s?", re.IGNORECASE),
    HELDOUT: re.compile(
        r"(test|testing|eval|evaluation|valid|validation|val|dev)(set)?s?|h[eo]ld[-_ ]?out", re.IGNORECASE
    ),
}
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
LONGEST_LINE = 16 << 20  # bytes
_KINDS = (".parquet", ".jsonl", ".json")


def is_data(name: str) -> bool:
    """Return whether a file's name is that of a table that ``rows`` reads."""
    path = PurePosixPath(name.lower())
    if path.suffix in _OPEN:
        path = path.with_suffix("")
    return path.suffix in _KINDS


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it is hidden or temporary: an editor's, Jupyter's, Spark's."""
    return any(
        part.startswith((".", "_", "~", "#")) or part.endswith("~") for part in PurePosixPath(name).parts
    )


def local_files(path: str) -> dict[str, Path]:
    """Return the data files at a path, a file or a folder, by name relative to the folder.

    Raises:
        InputError: There is no file, or none that can be read.
    """
    where = Path(path)
    with reached(path, "preferences.path"):
        if where.is_file() and is_data(where.name):
            return {where.name: where}
        files = [file for file in sorted(where.rglob("*")) if file.is_file() and is_data(file.name)]
    found = {file.relative_to(where).as_posix(): file for file in files}
    if all(map(is_hidden, found)):
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


def by_part(names: Iterable[str], subset: str | None, excluded: Iterable[str] = ()) -> dict[Part, list[str]]:
    """Divide file names by part: heldout where a file or a folder above it is named test, val, dev or such.

    Only files below a folder named ``subset`` are taken, and none below ``excluded`` folders.

    Raises:
        InputError: No file is left, or one is named as of both parts.
    """
    names = list(names)
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    wanted = [name for name in names if not set(folders[name]) & set(excluded)]
    chosen = [name for name in wanted if subset is None or subset in folders[name]]
    if not chosen:
        there = ", ".join(sorted({part for name in wanted for part in folders[name]})) or "none"
        raise InputError(f"preferences.subset is {subset!r} and no folder has that name; use one of: {there}")
    parts: dict[Part, list[str]] = {TRAIN: [], HELDOUT: []}
    for name in chosen:
        parts[_part(name)].append(name)
    if not parts[TRAIN]:  # the only file is called test
        parts = {TRAIN: parts[HELDOUT], HELDOUT: []}
    return parts


def _part(name: str) -> Part:
    words = _WORD.findall(name)
    found = [part for part in (HELDOUT, TRAIN) if any(map(_NAMES[part].fullmatch, words))]
    if len(found) > 1:
        raise InputError(
            f"preferences: {name} is named as training and as held-out data at once; rename the file or its "
            "folder, or name the files to use by preferences.path"
        )
    return found[0] if found else TRAIN


def rows(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """Iterate over the rows of a file, each with its place ("file:line"), or what is wrong with the row.

    The suffix of ``name`` gives its format; that of ``path`` may be another after a download.

    Raises:
        InputError: The file cannot be read.
    """
    read = _parquet if name.lower().endswith(".parquet") else _json_lines
    try:
        for number, row in read(name, path):
            yield f"{name}:{number}", row
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be read ({reason}); copy the file again") from None


def _parquet(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    number = texts = 0
    with opened(str(path)) as file:
        for batch in file.batches(1024):
            texts += decoded_texts(batch.columns)  # all rows are kept until they are written
            check_expansion(name, file.size, texts)
            for row in _of_batch(batch):
                number += 1
                yield number, row


def _of_batch(batch: pa.RecordBatch) -> Sequence[dict[str, Any] | BadRow]:
    try:
        found: list[dict[str, Any] | BadRow] = batch.to_pylist()
    except UnicodeDecodeError as error:  # pyarrow does not say in which row
        if batch.num_rows == 1:
            return [BadRow("not UTF-8", error.object)]
        return [row for index in range(batch.num_rows) for row in _of_batch(batch.slice(index, 1))]
    return found


def _json_lines(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    opener: Callable[..., BinaryIO] = _OPEN.get(PurePosixPath(name.lower()).suffix, open)
    size, read = epath.Path(path).stat().length, 0
    with opener(path, "rb") as file:
        lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
        for number, line in enumerate(lines, 1):
            read += len(line)
            check_expansion(name, size, read)  # all rows are kept until they are written
            if len(line) > LONGEST_LINE:  # 1,000 times as long as the file, where that is compressed
                raise InputError(f"{name}:{number}: the line has over {LONGEST_LINE >> 20} MB; divide it")
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> dict[str, Any] | BadRow:
    try:
        return json_object(line)
    except BadRow as error:
        return error

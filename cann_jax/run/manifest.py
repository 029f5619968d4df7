"""A stage's folder and its commit.

``settings.json`` comes first and says by which settings and inputs the work in the folder is made; shards
follow; ``manifest.json``, the same with every output's size and hash, is the commit, and comes last. A killed
stage thus keeps its finished shards, and one made by other settings, or altered since, is recognised.
"""

import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from etils import epath

from cann_jax.files.atomic import read_json, write_json, writing
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import (
    as_json,
    files_below,
    fingerprint_file,
    fingerprint_json,
    fingerprints,
)
from cann_jax.files.paths import PARTIAL, is_remote

LAYOUT = 6  # version of the files in a stage's folder; a change of it makes finished stages anew
MANIFEST, SETTINGS, OUTPUTS = "manifest.json", "settings.json", "outputs"
COMPUTE = "compute"  # what a stage has cost, in its manifest; it decides nothing
MISSING = "is missing"
# Names of what a killed writer leaves and nobody reads: ours, and Orbax's.
_UNFINISHED = (PARTIAL, ".orbax-checkpoint-tmp")
_ABSENT = object()

Record = dict[str, Any]


@dataclass(frozen=True)
class StageState:
    """A stage's folder, compared with what is expected of it.

    Args:
        state: ``done``: committed by these settings and inputs, outputs as they were committed; ``changed``:
            made by others; ``altered``: outputs are missing, added or changed; ``unfinished``: nothing, or
            work by these settings that was not committed.
        differences: One line a difference, with the old and the new value.
    """

    state: Literal["done", "changed", "altered", "unfinished"]
    differences: tuple[str, ...] = ()

    @property
    def keeps_work(self) -> bool:
        """Whether the stage's work can be continued: where a file was altered, none is trusted."""
        return self.state != "altered" or all(line.endswith(MISSING) for line in self.differences)


def expectation(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Record:
    """Return what a stage's manifest must record: its name, its settings and its inputs' fingerprints."""
    return dict(as_json({"stage": stage, "layout": LAYOUT, "settings": settings, "inputs": dict(inputs)}))


def stage_state(
    folder: epath.PathLike, expected: Record, writes: Iterable[str] = (), *, verify: bool = False
) -> StageState:
    """Compare a stage's folder with what is expected; writes nothing.

    Args:
        folder: The stage's folder.
        expected: From ``expectation``.
        writes: Patterns of the stage's outputs.
        verify: Hash every output; otherwise only those whose size or time of change is not the recorded one.

    Raises:
        InputError: The folder holds files that no stage made, or its manifest is corrupt.
    """
    folder = epath.Path(folder)
    made = _record(folder)
    if made is None:
        return StageState("unfinished")
    outputs = made.pop(OUTPUTS, None)
    if made_by := other_version(made):
        return StageState("changed", (made_by,))
    if different := _differences(made, expected):
        return StageState("changed", different)
    if outputs is None:
        return StageState("unfinished")
    altered = tuple(_altered(folder, outputs, writes, verify))
    return StageState("altered", altered) if altered else StageState("done")


def other_version(made: Record) -> str | None:
    """Return in words that another version of this program made a stage; None where this one did."""
    layout = made["layout"]
    if layout == LAYOUT:
        return None
    age = "a newer" if isinstance(layout, int) and layout > LAYOUT else "an older"
    return f"made by {age} cann_jax (its files are of version {layout}, this one reads {LAYOUT})"


def begin(
    folder: epath.PathLike, expected: Record, *, keep_work: bool = True, parts: Iterable[str] = ()
) -> bool:
    """Prepare the folder for work by these settings; return whether earlier work was kept.

    A commit is withdrawn; work by other settings is cleared, but for parts with commits of their own.

    Args:
        folder: The stage's folder.
        expected: From ``expectation``.
        keep_work: False clears work by the same settings too, because its files cannot be trusted.
        parts: Patterns of folders below, which have commits of their own: what they hold is judged by these.

    Raises:
        InputError: As ``stage_state``, or the folder cannot be written.
    """
    folder = epath.Path(folder)
    made = _record(folder) or {}
    made.pop(OUTPUTS, None)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder, keep_work and made == expected, parts)
    write_json(folder / SETTINGS, expected)
    return _present(folder) != [SETTINGS]


def commit(
    folder: epath.PathLike, expected: Record, writes: Iterable[str], compute: Record | None = None
) -> None:
    """Write the manifest, last of all.

    Args:
        folder: The stage's folder.
        expected: As given to ``begin``.
        writes: Patterns of the outputs, relative to ``folder``.
        compute: What the work has cost.

    Raises:
        InputError: A file cannot be read or the folder not be written.
        FileNotFoundError: No file matches a pattern.
    """
    folder = epath.Path(folder)
    names = files_below(folder)
    for pattern in writes:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise FileNotFoundError(f"{folder} has no file {pattern!r}, which its stage writes")
    made = fingerprints(folder, matching(names, writes))
    outputs = {name: _stamp(folder / name) | {"sha256": digest} for name, digest in made.items()}
    write_json(folder / MANIFEST, {**expected, OUTPUTS: outputs, COMPUTE: compute})


def committed(folder: epath.PathLike) -> Record:
    """Return what a finished stage's manifest records of its settings and inputs.

    Raises:
        InputError: The manifest is corrupt.
    """
    made = _read(epath.Path(folder) / MANIFEST)
    del made[OUTPUTS]
    return made


def commit_fingerprint(folder: epath.PathLike, only: Iterable[str] | None = None) -> str | None:
    """Return the fingerprint of a stage's commit, times of change left out; None where it has none.

    ``only`` are patterns of outputs, of which it then is the fingerprint, whatever else the commit records.
    """
    path = epath.Path(folder) / MANIFEST
    if not path.exists():
        return None
    made = _read(path)
    if made["layout"] != LAYOUT:
        return fingerprint_json(made)
    outputs = {name: each["sha256"] for name, each in made[OUTPUTS].items()}
    if only is not None:
        return fingerprint_json({name: outputs[name] for name in matching(outputs, only)})
    return fingerprint_json({**made, OUTPUTS: outputs})


def recorded_compute(folder: epath.PathLike) -> Any:
    """Return what ``commit`` was told of the cost; None where it was not, or nothing was committed."""
    path = epath.Path(folder) / MANIFEST
    return read_json(path).get(COMPUTE) if path.exists() else None


def committed_outputs(folder: epath.PathLike, patterns: Iterable[str]) -> list[str]:
    """Return the first output of each pattern that a stage committed, or the folder that it lies in."""
    path = epath.Path(folder) / MANIFEST
    names = list(_read(path)[OUTPUTS]) if path.exists() else []
    return [found[0].partition("/")[0] for pattern in patterns if (found := matching(names, (pattern,)))]


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the names that match one of the patterns, in order; ``*`` matches slashes too."""
    wanted = tuple(patterns)
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted))


def _altered(
    folder: epath.Path, outputs: Mapping[str, Record], writes: Iterable[str], verify: bool
) -> Iterator[str]:
    present = set(matching(files_below(folder), writes))
    for name in sorted(present - outputs.keys()):
        yield f"{OUTPUTS}.{name} was added after the stage ended"
    for name, recorded in outputs.items():
        if name not in present and not (folder / name).exists():
            yield f"{OUTPUTS}.{name} {MISSING}"
            continue
        unchanged = all(recorded.get(key) == value for key, value in _stamp(folder / name).items())
        if (verify or not unchanged) and fingerprint_file(folder / name) != recorded["sha256"]:
            yield f"{OUTPUTS}.{name} was altered after the stage ended"


def _stamp(path: epath.Path) -> Record:
    """Return size and time of change, in nanoseconds where the file system tells them."""
    if is_remote(path):
        found = path.stat()
        return {"bytes": found.length, "modified": int(found.mtime or 0) * 1_000_000_000}
    local = os.stat(path)
    return {"bytes": local.st_size, "modified": local.st_mtime_ns}


def _present(folder: epath.Path) -> list[str]:
    """Return the names in the folder, without files whose writing was cut off."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file where a stage's folder must be; move it away")
    children = folder.iterdir() if folder.exists() else ()
    return sorted(child.name for child in children if not child.name.endswith(PARTIAL))


def _record(folder: epath.Path) -> Record | None:
    """Return the manifest, or else the settings of unfinished work; None where there is no folder."""
    present = _present(folder)
    if not present:
        return None
    name = next((name for name in (MANIFEST, SETTINGS) if name in present), None)
    if name is None:
        raise InputError(
            f"{folder} holds files that this program did not make ({', '.join(present[:3])}); "
            "move them away, or set another name or run_dir"
        )
    return _read(folder / name)


def _read(path: epath.Path) -> Record:
    """Read a manifest, without its cost, or settings.

    Raises:
        InputError: The file is corrupt, or not what ``begin`` and ``commit`` write.
    """
    try:
        made = dict(read_json(path))
        made.pop(COMPUTE, None)
        # A manifest of another layout is whole in its own way; its stage is made anew, and says why.
        whole = made.keys() >= {"stage", "layout", "settings", "inputs"} and (
            made["layout"] != LAYOUT
            or all(each.keys() >= {"bytes", "modified", "sha256"} for each in made.get(OUTPUTS, {}).values())
        )
    except (InputError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole or (path.name == MANIFEST and OUTPUTS not in made):
        raise InputError(f"{path} is corrupt; delete the folder {path.parent} and start again")
    return made


def _clear(folder: epath.Path, keep_work: bool, parts: Iterable[str]) -> None:
    """Remove the commit first and leave the settings, so that a folder always says what work it holds."""
    (folder / MANIFEST).unlink(missing_ok=True)
    children = list(folder.iterdir()) if folder.exists() else []  # an object store has no empty folders
    for child in children:
        unfinished = any(mark in child.name for mark in _UNFINISHED)
        is_tree = child.is_dir() and not os.path.islink(child)
        keeps = keep_work or (is_tree and any(fnmatchcase(child.name, part) for part in parts))
        if child.name != SETTINGS and (unfinished or not keeps):
            child.rmtree() if is_tree else child.unlink()


def _differences(old: Record, new: Record) -> tuple[str, ...]:
    before, after = dict(flattened(old)), dict(flattened(new))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = ((key, before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in keys)
    return tuple(f"{key}: {_short(was)} → {_short(now)}" for key, was, now in pairs if was != now)


def flattened(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings with its dotted key; an empty mapping is a value."""
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from flattened(inner, f"{key}.{name}" if key else name)


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    is_hash = len(text) == 66 and " " not in text
    return text[1:11] + "…" if is_hash else textwrap.shorten(text, 60, placeholder=" …")

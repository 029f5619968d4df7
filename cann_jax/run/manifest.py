"""A stage's folder and its commit.

``settings.json`` is written first and says by which settings the work in the folder is made; shards follow;
``manifest.json``, the same with the outputs, is written last and is the commit. A stage that was killed thus
keeps its finished shards, and a stage made by other settings is told apart and made anew.
"""

import json
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etils import epath

from cann_jax.files.atomic import PARTIAL, read_json, write_json, writing
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json, fingerprint_file

LAYOUT = 2  # of the files in a stage's folder; a change of it makes finished stages anew
MANIFEST, SETTINGS, OUTPUTS = "manifest.json", "settings.json", "outputs"
# What a killed writer leaves under names that nobody reads: ours, and Orbax's.
_UNFINISHED = (PARTIAL, ".orbax-checkpoint-tmp")
_ABSENT = object()


@dataclass(frozen=True)
class StageState:
    """What a stage's folder holds, against what is expected of it.

    Args:
        state: ``done``: committed by these settings; ``changed``: made by others, or outputs are gone;
            ``fresh``: nothing, or unfinished work by these settings.
        differences: One line a differing key, with the old and the new value.
    """

    state: Literal["fresh", "done", "changed"]
    differences: tuple[str, ...] = ()


def expectation(stage: str, settings: Any, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a stage's manifest must say: its name, the settings it reads and fingerprints of what it reads."""
    return as_json({"stage": stage, "layout": LAYOUT, "settings": settings, "inputs": dict(inputs)})


def stage_state(folder: epath.PathLike, expected: Mapping[str, Any]) -> StageState:
    """Compare a stage's folder with what is expected; reads only.

    Raises:
        InputError: The folder holds files that no stage made, or its manifest is corrupt.
    """
    folder = epath.Path(folder)
    made = _record(folder)
    if made is None:
        return StageState("fresh")
    outputs = made.pop(OUTPUTS, None)
    differences = _differences(made, as_json(expected)) + _missing(folder, outputs or ())
    if differences:
        return StageState("changed", differences)
    return StageState("fresh" if outputs is None else "done")


def begin(folder: epath.PathLike, expected: Mapping[str, Any]) -> bool:
    """Prepare the folder for work by these settings; returns whether earlier work of theirs was kept.

    A commit is withdrawn; work by other settings is cleared.

    Raises:
        InputError: As ``stage_state``, or the folder cannot be written.
    """
    folder = epath.Path(folder)
    made = _record(folder) or {}
    made.pop(OUTPUTS, None)
    same = made == as_json(expected)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder, keep_work=same)
    write_json(folder / SETTINGS, expected)
    return same and _present(folder) != [SETTINGS]


def commit(folder: epath.PathLike, expected: Mapping[str, Any], outputs: Iterable[str]) -> None:
    """Write the manifest, last of all.

    Args:
        folder: The stage's folder.
        expected: As given to ``begin``.
        outputs: The files and folders made, by their names inside ``folder``.

    Raises:
        InputError: An output is missing, or the folder cannot be written.
    """
    folder = epath.Path(folder)
    made = {name: fingerprint_file(folder / name) for name in outputs}
    write_json(folder / MANIFEST, {**expected, OUTPUTS: made})


def _present(folder: epath.Path) -> list[str]:
    """Names in the folder, without files whose writing was cut off."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file where a stage's folder must be; move it away")
    children = folder.iterdir() if folder.exists() else ()
    return sorted(child.name for child in children if not child.name.endswith(PARTIAL))


def _record(folder: epath.Path) -> dict[str, Any] | None:
    """The manifest, or else the settings of unfinished work; None where the folder is empty or absent."""
    present = _present(folder)
    if not present:
        return None
    name = next((name for name in (MANIFEST, SETTINGS) if name in present), None)
    if name is None:
        raise InputError(
            f"{folder} holds files that this program did not make ({', '.join(present[:3])}); "
            "move them away, or set another name or run_dir"
        )
    try:
        return dict(read_json(folder / name))
    except (InputError, TypeError, ValueError):
        raise InputError(f"{folder / name} is corrupt; delete the folder {folder} and start again") from None


def _clear(folder: epath.Path, keep_work: bool) -> None:
    """Remove the commit first and the settings last, so that a folder always says what work it holds."""
    (folder / MANIFEST).unlink(missing_ok=True)
    children = list(folder.iterdir()) if folder.exists() else []  # an object store has no empty folders
    for child in children:
        unfinished = any(mark in child.name for mark in _UNFINISHED)
        if child.name != SETTINGS and (unfinished or not keep_work):
            is_tree = child.is_dir() and not os.path.islink(child)
            child.rmtree() if is_tree else child.unlink()
    if not keep_work:
        (folder / SETTINGS).unlink(missing_ok=True)


def _missing(folder: epath.Path, outputs: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{OUTPUTS}.{name} is gone" for name in outputs if not (folder / name).exists())


def _differences(old: Any, new: Any) -> tuple[str, ...]:
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = ((key, before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in keys)
    return tuple(f"{key}: {_short(was)} → {_short(now)}" for key, was, now in pairs if was != now)


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else name)


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    is_hash = len(text) == 66 and " " not in text
    return text[1:11] + "…" if is_hash else textwrap.shorten(text, 60, placeholder=" …")

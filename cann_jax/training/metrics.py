"""Metrics of every training step, as JSON lines and to the trackers in use."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

from etils import epath

from cann_jax.files.atomic import write_bytes_atomic, writes_here, writing
from cann_jax.files.hashes import fingerprint_json, shortest
from cann_jax.files.json_lines import BadRow, json_object
from cann_jax.files.paths import is_remote
from cann_jax.training.trackers.base import trackers

METRICS = "metrics.jsonl"


def tokens_trained(folder: epath.Path) -> float:
    """Return the tokens of all steps in a training's ``metrics.jsonl``; 0 where another process writes it."""
    path = folder / METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    return float(sum(json.loads(line)["tokens"] for line in lines))


class Metrics:
    """Writer of ``metrics.jsonl``, and teller of the trackers, from step ``first`` on.

    A resumed training drops what was written after its checkpoint, and says if the rows before it are not
    those of the ``digest``. In an object store, where nothing can be appended, the whole file is written
    again ``every`` so many steps.
    """

    def __init__(self, folder: epath.Path, first: int, stage: str, every: int = 1, digest: str | None = None):
        self.stage, self.every, self.writes = stage, every, writes_here.get()
        self.rows: list[dict[str, Any]] = []  # of all steps so far, on the process that writes
        if not self.writes:
            return
        self.path = folder / METRICS
        found = {row["step"]: row for row in _rows(self.path)}
        self.rows += [found[step] for step in range(first) if step in found]
        if digest not in (None, fingerprint_json(self.rows)):
            lost = first - len(self.rows)
            print(
                f"{stage}: {self.path} was damaged: of {first} steps, the rows of {lost} are lost and those "
                "of others may be wrong; the weights are not affected"
            )
        self._write_whole()
        with writing(self.path):
            self.file = None if is_remote(folder) else self.path.open("a")
        self.trackers = trackers.get()
        for tracker in self.trackers:
            tracker.begin(stage, folder, first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.writes:
            return
        if self.file is None:
            self._write_whole()
        else:
            with writing(self.path):
                self.file.close()
        for tracker in self.trackers:
            tracker.end()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        if not self.writes:
            return
        known = {name: _written(value) for name, value in values.items()}
        self.rows.append({"step": step, **known})
        if self.file is not None:
            with writing(self.path):
                self.file.write(json.dumps(self.rows[-1]) + "\n")
                self.file.flush()
        elif (step + 1) % self.every == 0:
            self._write_whole()
        finite = {name: value for name, value in known.items() if value is not None}
        for tracker in self.trackers:
            tracker.step(self.stage, step, finite)

    def _write_whole(self) -> None:
        write_bytes_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def _written(value: float) -> float | None:
    """Return a value as it is written: JSON has no NaN, the mean of nothing (every label is a tie)."""
    if not math.isfinite(value):
        return None
    return value if value.is_integer() else float(shortest(value))  # float32 does not count beyond 2²⁴


def _rows(path: epath.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, without lines that are none."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(BadRow):  # the process was killed in the middle of the line
            row = json_object(line)
            if isinstance(row.get("step"), int):
                yield row

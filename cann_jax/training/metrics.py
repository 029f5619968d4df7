"""Metrics of every training step, as JSON lines and as TensorBoard events."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Self

from etils import epath
from tensorboardX import SummaryWriter

from cann_jax.files.atomic import write_bytes_atomic, writes_here
from cann_jax.files.paths import is_remote


class Metrics:
    """Writer of ``metrics.jsonl`` and TensorBoard events from step ``first`` on.

    A resumed training drops what was written after its checkpoint. In an object store, where nothing can be
    appended, the whole file is written again ``every`` so many steps.
    """

    def __init__(self, folder: epath.Path, first: int, stage: str, every: int = 1):
        self.stage, self.every, self.writes = stage, every, writes_here.get()
        self.rows: list[dict[str, Any]] = []  # of all steps so far, on the process that writes
        if not self.writes:
            return
        self.path = folder / "metrics.jsonl"
        before = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows += [json.loads(line) for line in before if _step_of(line) < first]
        self._write_whole()
        self.file = None if is_remote(folder) else self.path.open("a")
        self.board = SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.writes:
            return
        if self.file is None:
            self._write_whole()
        else:
            self.file.close()
        self.board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        if not self.writes:
            return
        # JSON has no NaN: the mean of nothing (every label is a tie) becomes null.
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.rows.append({"step": step, **known})
        if self.file is not None:
            self.file.write(json.dumps(self.rows[-1]) + "\n")
            self.file.flush()
        elif (step + 1) % self.every == 0:
            self._write_whole()
        for name, value in known.items():
            if value is not None:
                self.board.add_scalar(f"{self.stage}/{name}", value, step)

    def _write_whole(self) -> None:
        write_bytes_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the process was killed in the middle of the line
        return float("inf")

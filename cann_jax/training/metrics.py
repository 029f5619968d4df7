"""Numbers of every training step, for people (``metrics.jsonl``) and for TensorBoard."""

import json
import math
import os

from etils import epath
from tensorboardX import SummaryWriter

from cann_jax.artifacts import write_bytes_atomic, writes_here


class Metrics:
    """``metrics.jsonl`` and TensorBoard; a resumed run drops what was written after its checkpoint.

    Args:
        folder: Where they lie.
        first: The step that is taken next.
        stage: Under which name TensorBoard shows them.
    """

    def __init__(self, folder: epath.Path, first: int, stage: str):
        self.stage, self.writes = stage, writes_here.get()
        if not self.writes:
            return
        path = folder / "metrics.jsonl"
        kept = [
            line
            for line in (path.read_text().splitlines() if path.exists() else [])
            if _step_of(line) < first
        ]
        write_bytes_atomic(path, "".join(line + "\n" for line in kept).encode())
        self.file = path.open("a")
        self.board = SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=first)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if not self.writes:
            return
        self.file.close()
        self.board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.writes:
            return
        # JSON has no NaN: a mean over nothing (every label a tie) is null.
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.file.write(json.dumps({"step": step, **known}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{self.stage}/{name}", value, step)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut off by a kill
        return float("inf")

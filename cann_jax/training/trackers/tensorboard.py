"""TensorBoard events in the folder of each training, and what the run has come to."""

import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from cann_jax.files.atomic import writing
from cann_jax.training.trackers.base import Outcome, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Writes events, in this thread.

    tensorboardX's ``SummaryWriter`` writes in another, which ends where the disk is full; training then
    waited for ever to hand it the next value.
    """

    def __init__(self, run: epath.Path) -> None:
        self.run = run

    def begin(self, stage: str, folder: epath.Path, first: int) -> None:
        """Open a file whose values replace those from this step on of a training that was cut off."""
        self._open(folder / FOLDER)
        self._write(step=first, session_log={"status": "START"})

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        self._write(step=step, summary={"value": [_scalar(f"{stage}/{key}", x) for key, x in values.items()]})

    def end(self) -> None:
        """Close the file."""
        with writing(self.folder):
            self.events.close()

    def conclude(self, outcome: Outcome) -> None:
        """Write scalars and texts into the run's own folder, in place of what was written there before.

        TensorBoard keeps by its name what only an earlier outcome has, as of a constraint since left out.
        """
        folder = self.run / FOLDER
        with writing(folder):
            if folder.exists():
                folder.rmtree()
        self._open(folder)
        values = [_scalar(key, value) for key, value in outcome.values.items()]
        texts = [_text(key, text) for key, text in outcome.texts.items()]
        self._write(step=0, summary={"value": [*values, *texts]})
        self.end()

    def _open(self, folder: epath.Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter, directory_check

        self.folder = folder
        with writing(folder):
            directory_check(os.fspath(folder))
            self.events = EventsWriter(os.fspath(folder / "events"))

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with writing(self.folder):
            self.events.write_event(Event(wall_time=time.time(), **fields))
            self.events.flush()


def _scalar(name: str, value: float) -> dict[str, Any]:
    return {"tag": name, "simple_value": value}


def _text(name: str, text: str) -> dict[str, Any]:
    tensor = {"dtype": "DT_STRING", "string_val": [text.encode()]}
    return {"tag": name, "tensor": tensor, "metadata": {"plugin_data": {"plugin_name": "text"}}}

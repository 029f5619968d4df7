"""Chat templates, rendered by a process with limits (``template_process``)."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGPROF, SIGTERM
from typing import Any

from cann_jax.files.errors import InputError

PROGRAM = Path(__file__).with_name("template_process.py")
LONGEST_TEMPLATE = 1 << 20  # characters; the longest of a known model, with tools, has 20,000
ROOM = 1 << 18  # characters that a template may write beside a dialogue,
# Statuses of a process that was ended from outside, as by a signal to all of a job: no template did that.
FROM_OUTSIDE = (-SIGTERM, -SIGINT, -SIGHUP, -SIGKILL)
ENDED = "what renders it was ended by a signal"
TIMES = 4  # and how often it may write the dialogue


class _Renderer:
    """The process, started at the first request and again after one that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """Return the process's answer; how it ended, where it gave none.

        One that a signal from outside ended, as Slurm sends it to all of a job, is started once more.
        """
        answer = self._asked(request)
        return self._asked(request) if answer.get("refusal") == ENDED else answer

    def _asked(self, request: dict[str, Any]) -> dict[str, str]:
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if answer:
                return dict(json.loads(answer))
            self._process = None
            with contextlib.suppress(BrokenPipeError):
                process.communicate()
        if process.returncode in FROM_OUTSIDE:
            return {"refusal": ENDED}
        return {
            "refusal": "it takes too long" if process.returncode == -SIGPROF else "it takes too much memory"
        }

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            # -P: the folder of the program holds modules of this package.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process


_renderer = _Renderer()


def render(template: Any, messages: list[dict[str, str]], values: Mapping[str, Any], day: str) -> str:
    """Return the text that a chat template makes of messages.

    Args:
        template: The template.
        messages: Role and content of every turn.
        values: What else a template may read, by name.
        day: What it takes for today, as ``2025-01-31``.

    Raises:
        InputError: It refuses the messages, is wrong, or needs more time, memory or room than any real one.
    """
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        raise InputError(f"it is no text of at most {LONGEST_TEMPLATE} characters")
    said = sum(len(message["content"]) for message in messages)
    every = {"messages": messages, "tools": None, "documents": None, **values}
    request = {"template": template, "day": day, "longest": ROOM + TIMES * said, "values": every}
    answer = _renderer.ask(request)
    if "refusal" in answer:
        raise InputError(answer["refusal"])
    return answer["text"]

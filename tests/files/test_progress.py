"""What progress says of the time left, in a log and on a terminal, and that one process of a run says it."""

import io
import sys

import pytest

from cann_jax.files.atomic import writes_here
from cann_jax.files.progress import track

SECONDS = (80.0, 20.0, 20.0, 20.0)  # of each step; the first compiles


@pytest.fixture
def clock(monkeypatch):
    passed: list[float] = []
    for name in ("time.monotonic", "time.time", "tqdm.std.time"):
        monkeypatch.setattr(name, lambda: sum(passed))
    return passed


def work(clock, **of_track) -> None:
    for step in track(range(4), "training", **of_track):
        clock.append(SECONDS[step])


@pytest.mark.parametrize("before", [0, 30])  # steps that an earlier start did
def test_the_first_step_says_nothing_of_the_time_that_others_take(clock, capsys, before):
    work(clock, initial=before, total=before + 4)
    said = ("", ", about 40 s left", ", about 20 s left", "")
    assert capsys.readouterr().err.splitlines() == [
        f"training: {before + done} of {before + 4} steps{left}" for done, left in enumerate(said, 1)
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("before", [0, 30])
def test_nor_does_it_on_a_terminal(clock, monkeypatch, before):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    work(clock, initial=before, total=before + 4)
    shown = [line.split("[")[1].split(",")[0] for line in terminal.getvalue().split("\r") if "[" in line]
    assert shown == ["00:00<?", "01:20<?", "01:40<00:40", "02:00<00:20", "02:20<00:00", "02:20<00:00"]


def test_a_process_that_does_not_write_says_nothing(clock, capsys):
    token = writes_here.set(False)
    try:
        work(clock)
    finally:
        writes_here.reset(token)
    assert clock == list(SECONDS) and capsys.readouterr().err == ""

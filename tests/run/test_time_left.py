"""What is left of a run, in words: by earlier runs of its stages, or by its pace."""

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.run.run import Run
from cann_jax.run.time_left import time_left

PACE = {"sample": 84.0, "score": 66.0}  # seconds of the quickstart's 320 × 6 responses


@pytest.fixture
def quickstart() -> Run:
    run = Run(parse_run(["--config", "quickstart"])[0])
    run.encoded = {"train": range(320), "calibration": range(256), "heldout": range(576)}  # type: ignore[dict-item]
    return run


@pytest.mark.parametrize(
    "before, left, words",
    [
        # 1,920 responses' worth of training, 3 × 512 to calibrate and 2 × 1,152 to evaluate, of 78 ms each.
        (PACE, ("dual", "align", "calibrate", "evaluate"), "; about 8 min left"),
        (PACE, ("evaluate",), "; about 3 min left"),
        (PACE | {"align": 20.0}, ("align",), "; about 20 s left"),
        (PACE, ("dual", "rounds", "evaluate"), "; about 3 min left, and rounds"),
        ({}, ("sample", "score"), "; time left: unknown yet"),
        ({}, ("sample", "score", "dual", "export"), "; time left: unknown yet"),  # was "about 0 s left, and"
    ],
)
def test_by_what_stages_took_or_by_the_pace(quickstart, before, left, words):
    assert time_left(quickstart, before, left) == words

"""--profile writes a trace of the steps asked for, and of no others."""

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError


def test_a_trace_of_two_steps(again, copy):
    folder = copy / "runs/tiny/align/tensorboard"
    said = again("--align.epochs", "1", "--stages", "align", "--profile", "1:3")
    assert f"profile: {folder}" in said
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    content = trace.read_bytes()
    assert b"train_step" in content and b"step_num" in content


def test_steps_beyond_the_end_are_said(again):
    said = again("--align.epochs", "1", "--stages", "align", "--profile", "500:510")
    assert "profile: no step of 500 to 509 was trained here" in said


@pytest.mark.parametrize("text", ["3", "3:3", "5:2", "a:b", "-1:2"])
def test_steps_that_are_none(text):
    with pytest.raises(InputError, match=r"--profile \S+: write START:STOP, for example 2:5"):
        parse_run(["--config", "configs/quickstart.yaml", f"--profile={text}"])

"""Settings that change nothing in a run are told, by the pipeline's table."""

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.run.pipeline import PIPELINE
from cann_jax.run.stages import print_unread, unread_settings
from tests.builders import ROOT


def _unread(config: str, *flags: str) -> tuple[str, ...]:
    return unread_settings(PIPELINE, parse_run(["--config", str(ROOT / config), *flags])[0])


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_a_shipped_configuration_is_read(config):
    assert _unread(config) == ()


@pytest.mark.parametrize(
    ("flags", "unread"),
    [
        (("--prompts.calibration", "null"), ("calibrate.power", "calibrate.responses")),
        (("--online.responses", "9", "--run_dir", "elsewhere"), ("online.responses",)),
        (("--rounds", "2", "--online.responses", "9"), ()),
        (("--prealign.epochs", "3"), ("prealign.epochs",)),
        (("--export", "[]"), ()),
    ],
)
def test_settings_that_no_stage_reads_are_found(flags, unread):
    assert _unread("configs/quickstart.yaml", *flags) == unread


@pytest.mark.parametrize("policy", ["reference", "resample"])
def test_without_a_training_its_settings_are_not_read(policy):
    found = _unread(
        "configs/quickstart.yaml", "--evaluate.policy", policy, "--rounds", "3", "--export", "[gguf]"
    )
    assert {"rounds", "export", "align.loss", "calibrate.power"} <= {*found}
    assert not {key for key in found if key.partition(".")[0] in ("dual", "evaluate", "sample", "reward")}


def test_they_are_printed_in_a_line(capsys):
    config = ["--config", str(ROOT / "configs/quickstart.yaml"), "--prompts.calibration", "null"]
    print_unread(PIPELINE, parse_run(config)[0])
    assert capsys.readouterr().out == (
        "settings that nothing in this run reads: calibrate.power, calibrate.responses\n"
    )

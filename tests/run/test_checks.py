"""What depends on the data's sizes is refused before anything is sampled."""

import pytest

from cann_jax import train
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import write_config


@pytest.fixture
def refused(tmp_path, tiny_folder, monkeypatch):
    """Run a configuration that is refused; returns the message and the stages that have begun."""
    monkeypatch.chdir(ROOT)

    def refused(*flags: str, **changes) -> tuple[str, set[str]]:
        config = write_config(tmp_path, tiny_folder, **changes)
        with pytest.raises(InputError) as caught:
            train.main(["--config", config, *flags])
        folder = tmp_path / "runs/tiny"
        begun = {path.parent.name for path in folder.glob("*/settings.json")} if folder.exists() else set()
        return str(caught.value), begun

    return refused


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
def test_a_warmup_that_outlasts_the_training(refused, dry):
    """12 prompts twice, 5 a step: 5 steps."""
    message, begun = refused("--align.optimizer.warmup_steps", "5", *dry)
    expected = "align: optimizer.warmup_steps is 5 and this training has 5 steps"
    assert message.startswith(expected) and not begun


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
def test_a_group_that_no_prompt_has(refused, dry):
    message, begun = refused("--constraints.length.group", "evne", *dry)
    assert "constraints.length.group is 'evne', and no training prompt has it" in message
    assert "the groups are even, odd" in message and not begun


def test_a_warmup_on_pairs_is_refused_before_sampling(refused, tmp_path):
    rows = [pku_row(n) for n in range(30)]
    section = {"dataset": "local", "on_overlong": "error", "prepared": str(tmp_path / "prepared")}
    section["path"] = str(write_lines(tmp_path / "own.jsonl", rows))
    flags = ("--align.pairs", "dataset", "--constraints.length.group", "null")
    message, begun = refused(*flags, "--align.optimizer.warmup_steps", "99", preferences=section)
    assert message.startswith("align: optimizer.warmup_steps is 99 and this training has")
    assert begun == {"pairs"}

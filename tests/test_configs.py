"""Every shipped configuration parses, names files that exist, and passes the dry run."""

from pathlib import Path

import pytest

from cann_jax import train
from cann_jax.cli import parse_run
from cann_jax.data.prompts import read_prompts

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = "embedded:"  # models that are installed with the tests


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configuration_parses_and_its_prompts_are_apart(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, _ = parse_run(["--config", str(path)])
    train_prompts, heldout = (read_prompts(file) for file in (config.prompts.train, config.prompts.heldout))
    assert not {prompt.text for prompt in train_prompts} & {prompt.text for prompt in heldout}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_dry_run_of_small_models(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    config, _ = parse_run(["--config", str(path)])
    if not config.model.path.startswith(SMALL):
        pytest.skip(f"{config.model.path} is not installed with the tests")
    train.main(["--config", str(path), "--run_dir", str(tmp_path), "--dry_run"])
    said = capsys.readouterr().out
    assert "attention by xla" in said and "training step" in said
    assert not list(tmp_path.iterdir())

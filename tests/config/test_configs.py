"""Every shipped configuration says how it is run, and passes the dry run; the 7B ones by shapes alone."""

import re
from pathlib import Path

import pytest

from cann_jax import reward, train
from cann_jax.command_line.run_options import parse_run, parse_score_model
from cann_jax.config.model import PREFERENCES
from cann_jax.data.prompts import read_prompts
from tests.builders import ROOT
from tests.builders.preferences import hh_row, write_lines
from tests.builders.score_models import save_classifier

RUNS = sorted((ROOT / "configs").glob("*.yaml"))
SCORE_MODELS = sorted((ROOT / "configs/score_models").glob("*.yaml"))
SMALL = "embedded:"  # models that are installed with the tests


def of(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@of(RUNS + SCORE_MODELS)
def test_it_opens_with_its_command(path):
    comments = re.match(r"(#.*\n)+", path.read_text())
    assert comments, "a configuration opens with what it is"
    command = rf"#   python -m cann_jax\.\w+ --config {re.escape(str(path.relative_to(ROOT)))}\b"
    assert re.search(command, comments[0])


@of(RUNS)
def test_sets_of_prompts_are_apart(path):
    sources = parse_run(["--config", str(path)])[0].prompts.sources().values()
    if PREFERENCES in sources:
        assert set(sources) == {PREFERENCES}  # told apart by the data set's own parts
        return
    contents = [prompt.content for file in sources for prompt in read_prompts(file)]
    assert len(set(contents)) == len(contents)


def model_flags(path: Path, model: str) -> list[str]:
    """Nothing for an installed model; else the architecture that the file's own comments name."""
    if model.startswith(SMALL):
        return []
    return ["--model_config", re.findall(r"--model_config (\S+)", path.read_text())[0]]


def data_flags(model: str, preferences, folder: Path) -> list[str]:
    """Made-up preference pairs, where there is a tokenizer to read them with; else the bounds are tested."""
    if preferences is None or not model.startswith(SMALL):
        return []
    write_lines(folder / "data/harmless-base/train.jsonl", [hh_row(number) for number in range(120)])
    return ["--preferences.path", str(folder / "data")]


def scorer_flags(config, folder: Path) -> list[str]:
    """A tiny model in place of one that another command trains."""
    flags = []
    for key, scorer in config.measured().values():
        if scorer.kind == "reward_model" and scorer.path.startswith("runs/"):
            flags += [f"--{key}.path", str(save_classifier(folder / "score_model"))]
    return flags


@of(RUNS)
@pytest.mark.model
def test_dry_run(path, tmp_path, capsys):
    config, _ = parse_run(["--config", str(path)])
    flags = model_flags(path, config.model.path) + scorer_flags(config, tmp_path)
    flags += data_flags(config.model.path, config.preferences, tmp_path)
    train.main(["--config", str(path), "--run_dir", str(tmp_path / "runs"), "--dry_run", *flags])
    said = capsys.readouterr().out
    for what in ("M parameters, ", "attention by xla", "scorer reward: ", "sampling: ", "training: "):
        assert what in said
    assert all(f"scorer {name}: " in said for name in config.measured())
    assert all(f"│ {name}" in said for name in ("sampling", "reference log-probs", "training step"))
    assert not (tmp_path / "runs").exists()
    if "--preferences.path" in flags:
        assert "tokens of the training pairs" in said and re.search(r"training: \d+ steps", said)
    elif config.align.pairs == "dataset":
        assert "preferences: not read" in said and "their number comes with the data" in said


@of(SCORE_MODELS)
@pytest.mark.model
def test_dry_run_of_a_score_model(path, tmp_path, capsys):
    config, _ = parse_score_model(["--config", str(path)])
    assert config.name == path.stem
    flags = model_flags(path, config.model.path)
    flags += data_flags(config.model.path, config.preferences, tmp_path)
    reward.main(["--config", str(path), "--run_dir", str(tmp_path / "runs"), "--dry_run", *flags])
    said = capsys.readouterr().out
    assert "M parameters, " in said and "│ training step" in said
    assert re.search(r"training: \d+ steps of 16 of \d+", said)
    assert not (tmp_path / "runs").exists()

"""The commands and snippets of the pages: each command line parses, the tutorial prints what it shows."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cann_jax import dual, train
from cann_jax.analysis.example import example_table
from cann_jax.command_line.commands import CHAT, DUAL, EXPORT, JUDGE
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_configured, parse_flags
from cann_jax.command_line.run_options import parse_compile_check, parse_run, parse_score_model
from cann_jax.config.judge import JudgeConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from tests.builders import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCORER = ROOT / "docs/howto/scorer.md"
TUTORIAL = ROOT / "docs/tutorial.md"
COMMAND = re.compile(r"^(?:\S+=\S+ )?(?:\.venv/bin/)?python -m cann_jax\.(\w+) (.*)$", re.MULTILINE)
PARSERS: dict[str, Any] = {
    "train": parse_run,
    "reward": parse_score_model,
    "compile_check": parse_compile_check,
    "dual": lambda argv: parse_flags(argv, DUAL),
    "export": lambda argv: parse_flags(argv, EXPORT),
    "chat": lambda argv: parse_flags(argv, CHAT),
    # The page's own file is checked below.
    "judge": lambda argv: "--config" in argv or parse_configured(argv, JUDGE, JudgeConfig),
}
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]\d+)?")


def blocks(page: Path, before: str = "\0") -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page, up to a heading: (language, text), long commands on one line."""
    prose = page.read_text(encoding="utf-8").partition(before)[0]
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", prose, re.MULTILINE | re.DOTALL):
        yield language, text.replace("\\\n", " ")


def commands(text: str) -> Iterator[tuple[str, list[str], int]]:
    """The project's commands in a block: (name, arguments, exit status)."""
    for name, rest in COMMAND.findall(text):
        line, _, remark = rest.partition("  # exit status ")
        yield name, shlex.split(line), int(remark or 0)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_command_lines_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for _, text in blocks(page):
        for name, argv, _ in commands(text):
            if name in PARSERS and "--help" not in argv:
                PARSERS[name](argv)


@pytest.mark.parametrize("page", sorted((ROOT / "docs/howto").glob("*.md")), ids=page_id)
def test_configurations_complete_the_quickstart(page):
    for language, text in blocks(page):
        if language == "yaml":
            whole = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
            from_mapping(RunConfig, merged(whole, yaml.safe_load(text)))


def test_configuration_of_the_judge_is_one():
    (text,) = (text for language, text in blocks(ROOT / "docs/judge.md") if language == "yaml")
    assert from_mapping(JudgeConfig, yaml.safe_load(text)).questions().keys() >= {"helpfulness", "refusal"}


def merged(whole: Any, part: Any) -> Any:
    if not isinstance(part, dict) or not isinstance(whole, dict) or "kind" in part:
        return part
    return whole | {key: merged(whole.get(key), value) for key, value in part.items()}


def test_tutorial_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed: list[str] = []
    shown = 0
    for language, text in blocks(TUTORIAL, before="## 3. A whole run"):
        if language == "python":
            exec(text, names)
        for name, argv, status in commands(text) if language == "sh" else ():
            if name == "dual":
                monkeypatch.setattr(sys, "argv", [name, *argv])
                assert run_command(dual.main) == status
        printed += "".join(capsys.readouterr()).splitlines()
        for line in filter(None, map(str.strip, text.splitlines())) if language == "text" else ():
            assert line == "…" or any(same(line, each) for each in printed), line
            shown += 1
    assert shown > 20


def same(shown: str, printed: str) -> bool:
    """Whether two lines agree, their numbers within what another processor's rounding changes."""
    if NUMBER.sub("0", shown) != NUMBER.sub("0", printed.strip()):
        return False
    pair = [np.array(NUMBER.findall(line), float) for line in (shown, printed)]
    return bool(np.allclose(*pair, rtol=0.02, atol=1e-3))


def test_the_page_on_notebooks_computes(tmp_path, monkeypatch):
    """On rows in any order, some of them missing."""
    monkeypatch.chdir(tmp_path)
    rows = example_table(40, 8).to_pandas().sample(frac=0.9, random_state=0)
    rows.to_csv("scores.csv", index=False)
    names: dict[str, Any] = {}
    for language, text in blocks(ROOT / "docs/howto/notebook.md"):
        if language == "python":
            exec(text, names)
    table, best = names["table"], names["solution"].multipliers[0]
    np.testing.assert_allclose(
        table["r_lambda"], table["reward"] + best * table["safe"], rtol=1e-4, atol=1e-4
    )
    low, high = np.quantile(names["resampled"].multipliers, [0.025, 0.975])
    assert low < best < high


def test_scorer_of_the_page_scores():
    source, _ = (text for language, text in blocks(SCORER) if language == "python")
    names: dict[str, Any] = {}
    exec(source, names)
    assert names["brevity"](["Hi.", "Hi."], ["One two.", "One."]) == [-2, -1]


FEWER = ("--sample.responses", "4", "--sample.max_new_tokens", "16", "--calibrate.responses", "2")
FEWER += ("--evaluate.responses", "2")


@pytest.mark.model
def test_run_of_the_scorer_page(tmp_path, monkeypatch, capsys):
    """The page's files as they are, but for fewer prompts and responses: it names all that must be given."""
    source, tiny = (text for language, text in blocks(SCORER) if language == "python")
    whole = next(text for language, text in blocks(SCORER) if language == "yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_scorers.py").write_text(source)
    (tmp_path / "own.yaml").write_text(whole)
    exec(tiny, {})
    train.main(["--config", "own.yaml", "--dry_run"])
    said = capsys.readouterr().out
    assert "scorer brevity: function, probed" in said and "6 steps" in said
    train.main(["--config", "own.yaml", "--prompts.limit", "32", *FEWER])
    said = capsys.readouterr().out
    assert "brevity: " in said.splitlines()[-1] and (tmp_path / "runs/own/report.html").exists()

"""Every method's flags are settings, rows are kept while they still fit, and the page compares."""

import argparse
import json
import re
import subprocess
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import trade_off
from benchmarks.trade_off import (
    ERRORS,
    MARGINS,
    METHODS,
    configuration,
    copy,
    drawn,
    is_done,
    keep,
    points,
    take_over,
    wanted,
)
from benchmarks.trade_off_page import style, write_page
from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InfeasibleError, NotConvergedError
from cann_jax.run.manifest import begin, commit, expectation
from tests.builders import ROOT

CONFIG = ROOT / "configs/quickstart.yaml"


def parsed_rows(scorers: str, folder: Path) -> dict:
    """The settings of every row, by method and dial."""
    config = configuration(folder, CONFIG, scorers)
    given = ["--config", str(config), "--run_dir", str(folder)]
    return {
        (method, dial): parse_run([*given, *flags])[0]
        for method, dials in points(scorers, parse_run(given)[0]).items()
        for dial, flags in dials.items()
    }


@pytest.mark.parametrize("scorers", MARGINS)
def test_every_row_is_a_run_that_train_accepts(scorers, tmp_path):
    found = parsed_rows(scorers, tmp_path)
    assert f"{len(found)} rows a seed" in trade_off.__doc__
    # 98: the quickstart's power, by which ``certified`` aims.
    takes = (stats.norm.ppf(0.95) + stats.norm.ppf(0.98)) * ERRORS[scorers]
    aims = dict.fromkeys(("one_shot", "dial", "soup"), "margin") | {"certified": "certificate"}
    for (method, dial), config in found.items():
        (constraint,) = config.constraints.values()
        if method in ("one_shot", "dial", "certified", "primal_dual", "resample"):
            assert constraint.margin == dial
        if method == "primal_dual_raised":
            assert constraint.margin == pytest.approx(dial + takes, rel=1e-3)
        if method in aims:
            assert config.calibrated and config.calibrate.aim == aims[method]


@pytest.mark.parametrize("scorers", MARGINS)
def test_methods_are_given_what_they_need_to_reach_a_margin(scorers, tmp_path):
    """Sums as far as SACPO's, soups at a margin, the oracle by its own λ, SafeDPO pairs of both kinds."""
    found = parsed_rows(scorers, tmp_path)
    (name,) = found["reward", None].constraints
    for (method, dial), config in found.items():
        given = config.dual.given
        if method in ("weighted_sum", "sacpo"):
            assert given == {"reward": 1, name: dial}
        if method == "soup":
            assert given == {"reward": dial, name: pytest.approx(1 - dial)}
            assert config.constraints[name].margin == MARGINS[scorers][2]
        if method == "safe_dpo":
            assert config.align.group_size == config.sample.responses
    dials = {method: [dial for other, dial in found if other == method] for method in METHODS}
    assert dials["weighted_sum"] == dials["sacpo"]
    assert found["constraint", None].dual.given == {"reward": 0, name: 10}
    oracle = found["resample", MARGINS[scorers][0]].dual
    assert (oracle.multipliers, oracle.given) == ("plug_in", None)


def given(folder: Path, config: Path = CONFIG) -> argparse.Namespace:
    return argparse.Namespace(
        folder=folder, config=config, scorers=["quickstart"], seeds=[0], methods=["one_shot"]
    )


def test_a_row_is_done_while_settings_and_samples_are_the_same(tmp_path):
    (row, other, *_) = wanted(given(tmp_path))
    finished = [{"key": row.key, "fingerprint": row.fingerprint, "draw": "a"}]
    assert is_done(row, finished, "a") and is_done(row, finished, None)
    assert not is_done(row, finished, "b") and not is_done(other, finished, "a")
    changed = tmp_path / "changed.yaml"
    changed.write_text(CONFIG.read_text().replace("beta: 1.5", "beta: 1.6"))
    again = next(wanted(given(tmp_path, changed)))
    assert again.key == row.key and not is_done(again, finished, "a")
    changed.write_text("# said otherwise\n" + CONFIG.read_text())
    assert is_done(next(wanted(given(tmp_path, changed))), finished, "a")


def finish(folder: Path, content: str, name: str = "responses-0.parquet") -> Path:
    """Leave a finished stage."""
    expected = expectation(folder.name, {}, {})
    begin(folder, expected, keep_work=False)
    (folder / name).write_text(content)
    commit(folder, expected, [name])
    return folder


def test_what_a_seed_shares(tmp_path):
    """No checkpoints, and nothing unfinished; new samples take the place of those that fit no more."""
    seeds, first, second = (tmp_path / name for name in (".", "first", "second"))
    finish(first / "sample", "one")
    finish(first / "experts", "an adapter", "weights")
    for name in ("experts/reward", "rounds/02", "align"):
        (first / name / "checkpoints/4").mkdir(parents=True)
    (first / "score").mkdir()
    (first / "config.json").write_text("{}")
    keep(first, seeds, "soup")
    assert not list(tmp_path.rglob("checkpoints"))
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "config.json", "sample", "experts-soup",
    }  # fmt: skip
    take_over(seeds, second, "soup")
    assert {path.name for path in second.iterdir()} == {"config.json", "sample", "experts"}
    assert drawn(second) is not None and drawn(second) == drawn(first) == drawn(tmp_path / "shared")
    finish(second / "sample", "two")
    keep(second, seeds, "soup")
    take_over(seeds, first, "soup")
    for folder in (first, tmp_path / "shared"):
        assert (folder / "sample/responses-0.parquet").read_text() == "two"


def test_a_copy_that_was_cut_short_is_not_taken_over(tmp_path, monkeypatch):
    source, run = finish(tmp_path / "shared/sample", "one"), tmp_path / "run"

    def cut(source: Path, target: Path) -> None:
        target.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trade_off.shutil, "copytree", cut)
        copy(source, run / "sample")
    assert [path.name for path in run.iterdir()] == ["sample.partial"]
    (tmp_path / "shared/evaluate").mkdir()  # by a version that copied into place
    take_over(tmp_path, run, "one_shot")
    assert [path.name for path in run.iterdir()] == ["sample"] and drawn(run) == drawn(tmp_path / "shared")


def command(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["trade_off", *flags])
    trade_off.main()


RESULTS = {
    "relevance": {"measured": 0.2, "interval": [0.1, 0.3], "certificate": {"lower": 0.16}},
    "reward": {"measured": 0.5, "interval": [0.3, 0.7]},
    "summary": {"kl": 1.0, "verdict": "fails", "compute": {"seconds": 60, "policy_rounds": 1}
    | {"generated_tokens": 9, "training_flops": 1e15}},
    "also": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "status, expected",
    [(0, [True, True, False, False]), (InfeasibleError.exit_status, "refused"), (2, []),
     (NotConvergedError.exit_status, [])],
)  # fmt: skip
def test_a_margin_out_of_reach_is_a_row_and_a_fault_is_none(status, expected, tmp_path, monkeypatch):
    """And a finished row is not run again, until the samples of its seed are others."""
    runs = []

    def train(command: list[str], **_) -> subprocess.CompletedProcess:
        folder = Path(command[command.index("--run_dir") + 1]) / command[command.index("--name") + 1]
        runs.append(folder.name)
        if not (folder / "sample").exists():
            finish(folder / "sample", "one")
        (folder / "evaluate").mkdir(exist_ok=True)
        (folder / "evaluate/results.json").write_text(json.dumps(RESULTS))
        return subprocess.CompletedProcess(command, status, stderr="error: it failed\n")

    monkeypatch.setattr(trade_off.subprocess, "run", train)
    results = tmp_path / "new/folder"
    flags = ["--methods", "one_shot", "--scorers", "quickstart", "--seeds", "0"]
    flags += ["--folder", str(tmp_path), "--results", str(results)]
    for _ in range(2):
        command(monkeypatch, *flags)
    path = results / "trade_off.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if expected == "refused":
        assert [row["refused"] for row in found] == ["error: it failed"] * 4
    else:
        assert [row["lower"] >= row["key"][2] for row in found] == expected
    assert len(runs) == (4 if expected else 8)
    if expected:
        assert {row["draw"] for row in found} == {drawn(tmp_path / "quickstart/0/shared")}
        finish(tmp_path / "quickstart/0/shared/sample", "two")
        command(monkeypatch, *flags)
        assert len(runs) == 8


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--methods", "one_shot,dail"], "--methods: there is no 'dail'; did you mean dial?"),
        (["--scorers", "x"], "--scorers: there is no 'x'"),
        (["--seeds", "0,a"], "--seeds: 'a' is no int; write them like 0,1,2"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_arguments_are_refused_before_any_run(flags, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(trade_off.subprocess, "run", None)
    with pytest.raises(SystemExit) as refused:
        command(monkeypatch, "--folder", str(tmp_path), "--results", str(tmp_path), *flags)
    assert refused.value.code == 2 and message in capsys.readouterr().err


def row(method: str, seed: int, seconds: float, lower: float = 0.2, dial: float = 0.2, **more) -> dict:
    compute = {"policy_rounds": 1, "generated_tokens": 10, "training_flops": 3e15, "seconds": seconds}
    return {
        "key": ["quickstart", method, dial, seed], "machine": "this", "measured": 0.2 + seed / 100,
        "interval": [0.1, 0.3], "lower": lower, "reward": 0.5, "reward_interval": [0.25, 0.75], "kl": 1.0,
        "verdict": "fails", "compute": compute, "draw": "a",
    } | more  # fmt: skip


def refusal(method: str, seed: int, dial: float) -> dict:
    key = ["quickstart", method, dial, seed]
    return {"key": key, "refused": "error: too far", "machine": "this", "draw": "a"}


def page_of(folder: Path, rows: list[dict]) -> str:
    write_page(folder, rows, "What it is.\n\n    command")
    return (folder / "trade_off.md").read_text()


def test_the_page(tmp_path):
    rows = [row("one_shot", 0, 60), row("one_shot", 1, 120), row("resample", 0, 60, 0.19)]
    rows += [row("certified", 0, 60), row("certified", 1, 600), row("primal_dual_raised", 0, 360)]
    page = page_of(tmp_path, [*rows, refusal("one_shot", 0, 0.9)])
    of_one_shot = (
        "| one_shot | 0.2 | 0, 1 | +0.205 [+0.100, +0.300] | +0.500 [+0.250, +0.750] | 1.00 | 0.005 |"
    )
    assert f"{of_one_shot} 2 of 2 | 1 | 10 | 3.0 | 1.5 |" in page
    assert re.search(r"\| certified \| 0.2 \| 0, 1 \|.* \| 1.00 \| – \| 2 of 2 \|", page)
    # Of the seed that both have.
    cost = "certified in 1 of 1 in one shot, 1 of 1 by primal-dual, after 1.0 min and 6.0 min: 0.17×"
    assert f"- margin 0.2, seeds 0: {cost}\n" in page
    assert "| 0 of 1 | 1 | 10 |" in page and "| one_shot | 0.9 | 0 | error: too far |" in page
    assert (tmp_path / "trade_off.png").stat().st_size > 10_000


def test_a_refusal_and_a_low_bound_do_not_hold(tmp_path):
    rows = [row("certified", 0, 60), refusal("certified", 1, 0.2)]
    rows += [row("primal_dual_raised", 0, 360), row("primal_dual_raised", 1, 360, lower=None)]
    page = page_of(tmp_path, rows)
    assert "- margin 0.2, seeds 0, 1: certified in 1 of 2 in one shot, 1 of 2 by primal-dual\n" in page
    assert re.search(r"\| certified \| 0.2 \| 0 \|.* \| 1 of 2 \|", page)


def test_the_page_is_of_the_last_draw_of_a_seed_and_the_last_row_of_a_key(tmp_path):
    rows = [row("one_shot", 0, 60, draw="b"), row("one_shot", 1, 60, draw="b")]
    rows += [row("dial", 1, 60, draw="a"), row("dial", 1, 120, draw="a")]
    page = page_of(tmp_path, rows)
    assert re.search(r"\| one_shot \| 0.2 \| 0 \|", page)
    assert re.search(r"\| dial \| 0.2 \| 1 \|.* \| 2.0 \|", page)


def test_methods_look_different():
    assert len({style(number) for number in range(len(METHODS))}) == len(METHODS)

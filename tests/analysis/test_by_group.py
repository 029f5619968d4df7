"""The report by group, and what is said of a margin that the sample leaves open: console and files alike."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import t

from cann_jax.dual import main

N, K = 40, 6
RNG = np.random.default_rng(0)
GROUPS = np.array(["[a]", "b", None, "lone"], object)[np.where(np.arange(N) == 7, 3, np.arange(N) % 3)]
WEIGHTS = RNG.integers(1, 4, N).astype(float)
REWARD = RNG.normal(size=(N, K)).round(3)
SAFE = (RNG.normal(size=(N, K)) - np.where(GROUPS == "b", 0.8, -0.3)[:, None] * REWARD).round(3)
COUNTS = RNG.integers(2, K + 1, N)
THERE = np.arange(K) < COUNTS[:, None]


@pytest.fixture
def report(tmp_path, capsys):
    """The result of the command as dual.json has it, and what it prints."""
    lists = {
        n: [v[i, : COUNTS[i]].tolist() for i in range(N)] for n, v in (("reward", REWARD), ("safe", SAFE))
    }
    pq.write_table(pa.table({"group": GROUPS.tolist(), "weight": WEIGHTS, **lists}), tmp_path / "t.parquet")

    def call(*flags: str) -> tuple[dict, str]:
        flags = ("--beta", "0.5", "--prompt_weights", "weight", "--resamples", "0", *flags)
        main(["--scores", str(tmp_path / "t.parquet"), *flags, "--out", str(tmp_path)])
        return json.loads((tmp_path / "dual.json").read_text()), capsys.readouterr().out

    return call


def expected(values: np.ndarray, multiplier: np.ndarray, inside: np.ndarray) -> tuple:
    """A group's mean before, after, the change, its error and Σ1/w², in float64, under λ of SAFE."""
    tilt = np.where(THERE, np.exp((REWARD + multiplier * SAFE) / 0.5), 0)
    after = np.sum(tilt * values, 1) / tilt.sum(1)
    before = np.sum(THERE * values, 1) / COUNTS
    weights = WEIGHTS * inside / np.sum(WEIGHTS * inside)
    change = after - before
    error = np.sqrt(np.sum(weights**2 * (change - weights @ change) ** 2))
    return weights @ before, weights @ after, weights @ change, error, 1 / np.sum(weights**2)


def test_a_constraint_named_reward_is_not_the_reward(tmp_path):
    rows = {"group": GROUPS.tolist(), "helpful": REWARD.tolist(), "reward": SAFE.tolist()}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    flags = ["--reward", "helpful", "--margin", "reward=0.1", "--beta", "0.5", "--resamples", "0"]
    main(["--scores", str(tmp_path / "t.parquet"), *flags, "--out", str(tmp_path)])
    first = json.loads((tmp_path / "dual.json").read_text())["groups"][0]["scores"]
    assert first["helpful"]["reference"] == pytest.approx(REWARD.mean(), rel=1e-4)
    assert first["reward"]["reference"] == pytest.approx(SAFE.mean(), rel=1e-4)


@pytest.mark.parametrize("goal", ["safe=0.4", "safe@b=0.5"])
def test_each_group_has_its_own_means(report, goal):
    found, printed = report("--margin", goal)
    factor = 1.0
    if "@" in goal:  # λ tilts the group alone, by 1{x ∈ G}/p
        factor = (GROUPS == "b")[:, None] * WEIGHTS.sum() / WEIGHTS[GROUPS == "b"].sum()
    everyone, none = np.ones(N, bool), np.array([group is None for group in GROUPS])
    members = {"all prompts": everyone, **{g: g == GROUPS for g in ("[a]", "b", "lone")}, "no group": none}
    assert [group["group"] for group in found["groups"]] == list(members)
    for group in found["groups"]:
        inside = members[group["group"]]
        assert group["prompts"] == inside.sum()
        for name, values in (("reward", REWARD), ("safe", SAFE)):
            own = group["scores"][name]
            before, after, change, error, count = expected(values, found["multipliers"][0] * factor, inside)
            assert own["reference"] == pytest.approx(before, abs=1e-5)
            assert own["at_lambda"] == pytest.approx(after, abs=1e-4)
            assert own["change"]["value"] == pytest.approx(change, abs=1e-4)
            assert f"{own['reference']:.4g} → {own['at_lambda']:.4g}" in printed
            if group["group"] == "lone":
                assert own["change"]["interval"] == ["-inf", "inf"]
                continue
            spare = count - 2  # one λ was fitted
            reach = t.ppf(0.975, spare) * error * np.sqrt(count / spare)
            assert own["change"]["interval"][1] - change == pytest.approx(reach, rel=1e-3)
    assert "[a]" in printed and "no group" in printed


def test_a_share_is_reported_as_such(report):
    found, _ = report("--max_unsafe", "safe@b=0.4", "--unsafe_below", "safe=-1")
    share = found["groups"][0]["scores"]["share of safe >= -1"]
    assert share["reference"] == pytest.approx(expected(SAFE >= -1, 0, np.ones(N))[0], abs=1e-5)


def test_out_of_many_groups_the_largest_are_printed(tmp_path, capsys):
    columns = {"group": [f"group {n:02d}" for n in range(30)], "reward": REWARD[:30].tolist()}
    pq.write_table(pa.table(columns | {"safe": SAFE[:30].tolist()}), tmp_path / "t.parquet")
    flags = ["--margin", "safe=0.1", "--beta", "1", "--resamples", "0", "--out", str(tmp_path)]
    main(["--scores", str(tmp_path / "t.parquet"), *flags])
    printed = capsys.readouterr().out
    assert "all prompts" in printed and "group 18" in printed and "group 19" not in printed
    assert "11 smaller groups are not shown" in printed
    assert len(json.loads((tmp_path / "dual.json").read_text())["groups"]) == 31


def test_a_name_of_a_group_steers_no_terminal(tmp_path, capsys):
    names = np.array(["[red]a", "\x1b[2Jb"])[np.arange(N) % 2].tolist()
    pq.write_table(
        pa.table({"group": names, "reward": REWARD.tolist(), "safe": SAFE.tolist()}), tmp_path / "t.parquet"
    )
    main(["--scores", str(tmp_path / "t.parquet"), "--margin", "safe=0.1", "--resamples", "0"])
    printed = capsys.readouterr().out
    assert "[red]a" in printed and "�[2Jb" in printed and "\x1b" not in printed


def test_what_the_sample_leaves_open_is_one_line_in_print_and_file(report):
    free = expected(SAFE, 0, np.ones(N))[2]
    found, printed = report("--margin", f"safe={free + 0.01:.4f}")
    (question,) = found["undecided"]
    assert question["constraint"] == "safe" and question["estimate"] == pytest.approx(free, abs=1e-4)
    assert question["text"] in printed
    told = float(re.search(r"about ([\d,]+) more prompts like these", question["text"])[1].replace(",", ""))
    assert told == pytest.approx(question["more_prompts"], rel=0.05)
    assert report("--margin", "safe=0.7")[0]["undecided"] == []

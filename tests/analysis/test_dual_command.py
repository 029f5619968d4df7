"""The dual command: what it reads, prints and writes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import linprog

from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import open_scores, read_scores
from cann_jax.dual import main
from cann_jax.files.errors import InfeasibleError, InputError, NotConvergedError
from tests.analysis.example_files import PROMPTS, RESPONSES, TABLE, save

QUICK = ["--beta", "0.5", "--resamples", "20"]


@pytest.fixture
def scores(tmp_path) -> Path:
    pq.write_table(TABLE, tmp_path / "scores.parquet")
    return tmp_path / "scores.parquet"


def array(name: str) -> np.ndarray:
    return TABLE[name].to_numpy().reshape(PROMPTS, RESPONSES)


def wide(as_lists: bool) -> pa.Table:
    """A row for each prompt: list columns, or numbered ones."""
    columns = {
        "prompt": TABLE["prompt"].to_numpy()[::RESPONSES],
        "group": TABLE["group"].to_numpy()[::RESPONSES],
    }
    for name in ("reward", "safe", "polite"):
        if as_lists:
            columns[name] = array(name).tolist()
        else:
            columns |= {f"{name}_{k}": array(name)[:, k] for k in range(RESPONSES)}
    return pa.table(columns)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("shape", ["long", "lists", "numbered"])
def test_every_format_and_shape_reads_the_same(tmp_path, suffix, shape):
    if (suffix, shape) == (".csv", "lists"):
        pytest.skip("CSV has no lists")
    table = TABLE if shape == "long" else wide(shape == "lists")
    found = read_scores(save(tmp_path / f"t{suffix}", table), DualFlags())
    assert list(found.scores) == ["reward", "safe", "polite"] and found.mask.all()
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, array(name), rtol=1e-6)
    assert list(found.groups["group"][:2]) == ["everyday", "inviting"]


@pytest.mark.parametrize("as_lists", [True, False])
def test_the_order_of_a_wide_tables_columns_means_nothing(tmp_path, as_lists):
    """The reward was taken for the constraint where it did not come first; texts for scores."""
    table = wide(as_lists)
    texts = [[f"answer {k}" for k in range(RESPONSES)]] * PROMPTS
    more = (
        {"response": texts}
        if as_lists
        else {f"response_{k}": [t[k] for t in texts] for k in range(RESPONSES)}
    )
    turned = pa.table(more | {name: table[name] for name in reversed(table.column_names)})
    source = open_scores(save(tmp_path / "t.parquet", turned), DualFlags())
    assert source.names == ["reward", "polite", "safe"]
    np.testing.assert_allclose(source.read().scores["reward"], array("reward"), rtol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_npz(tmp_path, stacked):
    if stacked:
        constraints = {
            "constraints": np.stack([array("safe"), array("polite")], -1),
            "names": ["safe", "polite"],
        }
    else:
        constraints = {"safe": array("safe"), "polite": array("polite")}
    np.savez(tmp_path / "t.npz", reward=array("reward"), **constraints)
    found = read_scores(str(tmp_path / "t.npz"), DualFlags())
    np.testing.assert_array_equal(found.scores["polite"], array("polite"))


def test_rows_in_any_order_and_ragged(tmp_path):
    keep = np.random.default_rng(0).permutation(PROMPTS * RESPONSES)[:150]
    found = read_scores(save(tmp_path / "t.parquet", TABLE.take(pa.array(keep))), DualFlags())
    assert found.mask.sum() == 150
    np.testing.assert_allclose(
        found.scores["safe"][found.mask].sum(), TABLE["safe"].to_numpy()[keep].sum(), rtol=1e-4
    )
    assert np.isnan(found.scores["safe"][~found.mask]).all()


def test_one_constraint_from_table_to_files(scores, tmp_path, capsys):
    out = str(tmp_path / "out")
    main(["--scores", str(scores), "--margin", "safe=0.5", "--out", out, "--confidence", "0.975", *QUICK])
    printed = capsys.readouterr().out
    careful = "conservative lambda (97.5% that"
    for word in ("safe", "0.5", "feasible: yes", "converged: true", careful, "cross-fitted"):
        assert word in printed
    result = json.loads((tmp_path / "out" / "dual.json").read_text())
    assert result["feasible"] == "yes" and result["converged"] is True
    assert result["predicted_improvement"][0] == pytest.approx(0.5, abs=1e-3)
    assert result["largest_margin"][0] > 0.5
    own = result["by_constraint"]["safe"]
    assert own["multiplier_interval"][0] <= own["multiplier"] <= own["multiplier_interval"][1]
    assert own["multiplier"] == result["multipliers"][0] and own["margin"] == 0.5
    low, high = own["predicted_improvement_interval"]
    assert low < own["predicted_improvement"] < high
    for field in (
        "value",
        "slack",
        "kl",
        "kkt_residual",
        "duality_gap",
        "effective_sample_size",
        "iterations",
    ):
        assert field in result
    curve = pq.read_table(tmp_path / "out" / "curve.parquet")
    assert {"margin/safe", "multiplier/safe", "predicted_reward", "kl", "feasible"} <= set(curve.column_names)
    assert set(curve["along"].to_pylist()) == {"margin", "beta"} and curve.num_rows > 200
    assert (tmp_path / "out" / "dual.png").read_bytes().startswith(b"\x89PNG")


def test_group_and_level_together(scores, tmp_path, capsys):
    goals = ["--margin", "safe@inviting=0.5", "--at_least", "polite=0.1"]
    main(["--scores", str(scores), *goals, "--out", str(tmp_path), *QUICK])
    result = json.loads((tmp_path / "dual.json").read_text())
    assert result["constraints"] == ["safe@inviting", "polite"]
    assert result["predicted_improvement"][0] >= 0.5 - 1e-3
    assert result["predicted_constraints"][1] >= 0.1 - 1e-3
    assert result["margin_scale"] > 1


def test_margins_in_the_tables_order_need_no_names(scores, capsys):
    main(["--scores", str(scores), "--margin", "0.3", "--margin", "0.1", *QUICK])
    assert "safe" in capsys.readouterr().out


def test_out_of_reach_has_its_own_status_and_still_writes(scores, tmp_path, capsys):
    with pytest.raises(InfeasibleError, match=r"safe 50 \(largest") as caught:
        main(["--scores", str(scores), "--margin", "safe=50", "--out", str(tmp_path), *QUICK])
    assert caught.value.exit_status == 4
    result = json.loads((tmp_path / "dual.json").read_text())
    assert result["feasible"] == "no" and result["multipliers"] == ["inf"]


def scaled(path: Path, **factors: float) -> str:
    """The table with scores multiplied."""
    for name, factor in factors.items():
        column = pa.array(factor * TABLE[name].to_numpy())
        pq.write_table(TABLE.set_column(TABLE.column_names.index(name), name, column), path)
    return str(path)


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["memory", "stream"])
def test_not_converged_has_its_own_status_and_still_writes(tmp_path, capsys, stream):
    """Logits of 1e8 in float32; and the largest margin itself, of which float32 cannot tell the side."""
    safe = array("safe")
    largest = float(np.float32((safe.max(1) - safe.mean(1)).mean()))
    cases = {"too large for this β": (1e8, 0.3), "on the edge": (1.0, largest)}
    for match, (factor, margin) in cases.items():
        path = scaled(tmp_path / "t.parquet", reward=factor)
        goal = ["--margin", f"safe={margin!r}", "--beta", "0.5", "--out", str(tmp_path), *stream]
        with pytest.raises(NotConvergedError, match=match) as caught:
            main(["--scores", path, *goal])
        assert caught.value.exit_status == 5
        assert "converged: false" in capsys.readouterr().out
        result = json.loads((tmp_path / "dual.json").read_text())
        assert not result["converged"] and np.isfinite(result["multipliers"]).all()


def test_a_large_unit_of_a_constraint_changes_no_answer(tmp_path):
    """Squares of 1e20 leave float32's range: the conservative λ was infinite."""
    found = []
    for factor in (1.0, 1e20):
        path = scaled(tmp_path / "t.parquet", safe=factor)
        main(["--scores", path, "--margin", f"safe={0.3 * factor!r}", "--out", str(tmp_path), *QUICK])
        result = json.loads((tmp_path / "dual.json").read_text())
        cross = np.array(result["cross_fit"]["error"]).ravel() / factor
        bound = result["conservative"]["multipliers"][0] * factor
        slope = result["sensitivities"]["multipliers_by_margin"][0][0]
        found.append([bound, *cross, result["multipliers"][0] * factor])
        assert np.isfinite(slope)
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_what_is_out_of_reach_when_raised_is_said_in_words(scores, capsys):
    safe = array("safe")
    margin = float(0.99 * (safe.max(1) - safe.mean(1)).mean())
    main(["--scores", str(scores), "--margin", f"safe={margin!r}", *QUICK])
    assert "that the margins hold): none; raised to that" in " ".join(capsys.readouterr().out.split())


def test_one_prompt_has_an_answer_and_no_intervals(tmp_path, capsys):
    pq.write_table(TABLE.slice(0, RESPONSES), tmp_path / "t.parquet")
    main(["--scores", str(tmp_path / "t.parquet"), "--margin", "safe=0.1", "--out", str(tmp_path), *QUICK])
    result = json.loads((tmp_path / "dual.json").read_text())
    assert result["converged"] and not {"intervals", "conservative"} & set(result)
    assert "about one prompt only" in capsys.readouterr().out


def test_streaming_gives_the_same_multipliers(scores, tmp_path, capsys):
    for name, extra in (("memory", ["--resamples", "0"]), ("stream", ["--stream"])):
        goal = ["--margin", "safe=0.5", "--beta", "0.5"]
        main(["--scores", str(scores), *goal, "--out", str(tmp_path / name), *extra])
    memory, stream = (json.loads((tmp_path / n / "dual.json").read_text()) for n in ("memory", "stream"))
    np.testing.assert_allclose(stream["multipliers"], memory["multipliers"], rtol=1e-4)
    np.testing.assert_allclose(stream["largest_margin"], memory["largest_margin"], rtol=1e-5)
    assert stream["by_constraint"]["safe"].keys() == memory["by_constraint"]["safe"].keys()
    assert stream["costs"] == memory["costs"] == []


def test_a_strained_sample_is_told_how_many_responses_it_lacks_at_least(tmp_path, capsys):
    """With so many the policy still strains the sample or barely ceases to: KL grows with the responses."""

    def solved(responses: int) -> dict:
        harm, noise = np.random.default_rng(0).normal(size=(2, 300, responses))
        np.savez(tmp_path / "t.npz", reward=-0.5 * harm + 0.75**0.5 * noise, safe=harm)
        flags = ["--margin", "safe=1.9", "--beta", "0.5", "--resamples", "0", "--out", str(tmp_path)]
        main(["--scores", str(tmp_path / "t.npz"), *flags])
        return json.loads((tmp_path / "dual.json").read_text())

    few = solved(32)
    (warning,) = few["warnings"]
    told = int(re.search(r"at least (\d+) responses a prompt", warning)[1])
    assert told == int(np.ceil(np.exp(few["kl"] / 0.7))) > 32
    assert 0.65 < solved(told)["kl_share_of_log_responses"] < 0.75 < few["kl_share_of_log_responses"]


@pytest.mark.parametrize("beyond", [1.001, 1.05])
def test_margins_that_conflict_only_together_are_refused_alike(scores, tmp_path, beyond, capsys):
    """The largest factor of both margins is computed apart, as a linear program over weights of responses."""
    gains = np.stack([s - s.mean(1, keepdims=True) for s in (array("safe"), 0.5 * array("reward"))])
    asked = gains.max(-1).mean(-1) * 0.75
    rows = gains.reshape(2, -1) / PROMPTS
    found = linprog(
        np.r_[np.zeros(rows.shape[1]), -1.0],
        A_ub=np.c_[-rows, asked],
        b_ub=[0, 0],
        A_eq=np.c_[np.repeat(np.eye(PROMPTS), RESPONSES, axis=1), np.zeros(PROMPTS)],
        b_eq=np.ones(PROMPTS),
    )
    margins = -found.fun * beyond * asked
    table = TABLE.append_column("help", pa.array(0.5 * TABLE["reward"].to_numpy()))
    pq.write_table(table, scores, row_group_size=50)
    goals = []
    for name, margin in zip(("safe", "help"), margins, strict=True):
        goals += ["--margin", f"{name}={margin:.7g}"]
    lines, results = [], []
    for name, extra in (("memory", ["--resamples", "0"]), ("stream", ["--stream"])):
        flags = ["--beta", "0.5", *extra, "--out", str(tmp_path / name)]
        with pytest.raises(
            InfeasibleError, match="margins conflict on these responses: safe, help"
        ) as caught:
            main(["--scores", str(scores), *goals, *flags])
        lines.append(str(caught.value))
        results.append(json.loads((tmp_path / name / "dual.json").read_text()))
    assert lines[0] == lines[1]
    for result in results:
        assert result["feasible"] == "no" and result["multipliers"] == ["inf", "inf"]
        assert result["kl"] is None and result["predicted_improvement"] == [None, None]
        assert result["tightest_together"] == ["safe", "help"]
        assert result["margin_scale"] == pytest.approx(1 / beyond, rel=1e-4)


def test_example_table(tmp_path, capsys):
    main(["--example", str(tmp_path / "example.parquet")])
    assert "python -m cann_jax.dual --scores" in capsys.readouterr().out
    assert read_scores(str(tmp_path / "example.parquet"), DualFlags()).scores["safe"].shape == (200, 64)


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--example", "scores.csv"], "give a path that ends in .parquet"),
        (["--example", "a.parquet", "--beta", "1"], "--example takes no other flag"),
        (["--margin", "1"], "--scores is missing"),
    ],
)
def test_table_or_example(flags, match):
    with pytest.raises(InputError, match=match):
        main(flags)


def test_single_and_identical_responses_are_reported(tmp_path, capsys):
    table = TABLE.slice(7)  # leaves the first prompt one response
    flat = np.arange(table.num_rows) < 9
    for name in ("reward", "safe"):
        values = np.where(flat & (np.arange(table.num_rows) > 0), 1, table[name].to_numpy())
        table = table.set_column(table.column_names.index(name), name, pa.array(values.astype(np.float32)))
    main(["--scores", save(tmp_path / "t.parquet", table), "--margin", "safe=0.2", *QUICK])
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "1 prompt with one response only" in printed
        and "1 prompt whose responses all score the same" in printed
    )


def test_the_process_prints_one_line_and_needs_no_model_library(scores, tmp_path):
    program = (
        "import sys; from cann_jax.dual import main; "
        "import cann_jax.analysis.plots, cann_jax.analysis.stream; "
        "assert not {'flax', 'transformers', 'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    command = [
        sys.executable,
        "-m",
        "cann_jax.dual",
        "--scores",
        str(tmp_path / "none.csv"),
        "--margin",
        "safe=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("extra", [["--resamples", "0"], ["--stream"]])
def test_a_goal_of_nothing_beside_another_changes_no_verdict(tmp_path, extra):
    """The second score is constant within prompts: its margin of 0 leaves no room, and yet is met."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(size=50), 8)
    columns = {"prompt": np.repeat(np.arange(50), 8), "response": np.tile(np.arange(8), 50)}
    columns |= {"reward": rng.normal(size=400), "safe": rng.normal(size=400), "other": level}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    goals = ["--margin", "safe=0.1", "--margin", "other=0", "--out", str(tmp_path)]
    main(["--scores", str(tmp_path / "t.parquet"), *goals, *extra])
    result = json.loads((tmp_path / "dual.json").read_text())
    assert result["feasible"] == "yes" and result["converged"]
    assert np.all(np.array(result["predicted_improvement"]) >= [0.1 - 1e-5, -1e-5])

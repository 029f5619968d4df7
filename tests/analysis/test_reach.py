"""What training can reach, in the command's words: verdicts, messages, files and the picture."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from cann_jax.analysis import plots
from cann_jax.analysis.reach import shortfall_message
from cann_jax.core.prediction import folds_of
from cann_jax.core.problem import Constraint
from cann_jax.dual import main
from cann_jax.files.errors import InfeasibleError, InputError

PROMPTS, RESPONSES, BETA = 48, 6, 0.5
RNG = np.random.default_rng(3)
FEATURES = RNG.normal(size=(PROMPTS, RESPONSES, 3)).astype(np.float32)
NOISE = RNG.normal(size=(3, PROMPTS, RESPONSES))
REWARD = 0.8 * FEATURES[..., 0] - 0.5 * FEATURES[..., 1] + 0.7 * NOISE[0]
SAFE = 0.7 * FEATURES[..., 1] + 0.4 * FEATURES[..., 2] + 0.8 * NOISE[1]
# What features tell of it is against SAFE; the rest lets the sample reach both.
AGAINST = 1.2 * NOISE[2] - 0.7 * FEATURES[..., 1] - 0.5 * FEATURES[..., 2]
ROWS = np.random.default_rng(4).permutation(PROMPTS * RESPONSES)


@pytest.fixture
def ask(tmp_path, capsys, monkeypatch):
    """Run the command on rows in any order; return what it printed, its error, and what it drew and wrote."""
    drawn = []

    def figure(**options) -> Figure:
        drawn.append(Figure(**options))
        return drawn[-1]

    monkeypatch.setattr(plots, "Figure", figure)

    def run(
        asked: float, *flags: str, resamples: int = 20, goal: str = "--margin", **changes: np.ndarray
    ) -> SimpleNamespace:
        values = {"reward": REWARD, "safe": SAFE, "against": AGAINST, "emb": FEATURES} | changes
        columns = {name: list(each.reshape(-1, *each.shape[2:])[ROWS]) for name, each in values.items()}
        columns["prompt"] = np.repeat([f"p{n}" for n in range(PROMPTS)], RESPONSES)[ROWS]
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        own = ["--scores", str(tmp_path / "t.parquet"), goal, f"safe={asked}", "--beta", str(BETA)]
        error = None
        try:
            main([*own, "--resamples", str(resamples), "--out", str(tmp_path / "out"), *flags])
        except InputError as caught:
            error = caught
        written = tmp_path / "out" / "dual.json"
        return SimpleNamespace(
            printed=capsys.readouterr().out,
            error=error,
            json=json.loads(written.read_text()) if written.exists() else None,
            curve=drawn[-1].axes[0] if drawn else None,
        )

    return run


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def printed(found) -> str:
    """What was printed, as one line: without the borders at which a table folds its cells."""
    return " ".join(found.printed.replace("│", " ").replace("┃", " ").split())


def test_a_margin_within_reach(ask):
    found = ask(0.3, "--features", "emb", "--folds", "6")
    assert found.error is None
    assert "what features tell of unseen prompts" in found.printed and "margins: reachable" in found.printed
    reach = found.json["attainable"]
    assert reach["reachable"] is True
    assert reach["forecast"]["improvement"][0]["value"] == pytest.approx(0.3, abs=1e-3)
    low, high = reach["forecast_of_plug_in"]["improvement"][0]["interval"]
    assert low < reach["forecast_of_plug_in"]["improvement"][0]["value"] < high
    assert reach["multipliers"][0] > found.json["multipliers"][0]
    assert 0.3 < reach["ceiling"][0] < found.json["largest_margin"][0]
    assert f"attainable λ = {reach['multipliers'][0]:.4g}" in legend(found.curve)
    at = {line.get_label(): line.get_xdata()[0] for line in found.curve.lines}
    assert at["ceiling of training"] == pytest.approx(reach["ceiling"][0])
    assert at[f"attainable λ = {reach['multipliers'][0]:.4g}"] == pytest.approx(0.3)
    assert found.curve.get_ylim()[1] > reach["multipliers"][0]


def test_predictions_are_of_the_tables_own_rows(ask):
    """Correlations are those of ridge regression in float64 on the table as it was before it was shuffled."""
    found = ask(0.3, "--features", "emb", "--folds", "6", "--seed", "5").json["attainable"]
    first = list(dict.fromkeys(ROWS // RESPONSES))  # the command's order of prompts
    inputs = FEATURES[first].astype(float)
    inputs -= inputs.mean(1, keepdims=True)
    inputs /= inputs.std((0, 1))
    folds = folds_of(PROMPTS, 6, 5)
    for target, scores in enumerate((REWARD, SAFE)):
        score = scores[first] - scores[first].mean(1, keepdims=True)
        fitted = np.zeros_like(score)
        for fold in range(6):
            rows, values = inputs[folds != fold].reshape(-1, 3), score[folds != fold].ravel()
            gram = rows.T @ rows + found["strengths"][target] * np.eye(3)
            fitted[folds == fold] = inputs[folds == fold] @ np.linalg.solve(gram, rows.T @ values)
        expected = np.sum(fitted * score) / np.sqrt(np.sum(fitted**2) * np.sum(score**2))
        assert found["correlations"][target] == pytest.approx(expected, abs=1e-4)


def test_a_file_tells_the_same_as_a_column(ask, tmp_path):
    np.save(tmp_path / "emb.npy", FEATURES.reshape(-1, 3)[ROWS])
    column, file = (ask(0.3, "--features", x).json["attainable"] for x in ("emb", str(tmp_path / "emb.npy")))
    assert column == file


def test_a_margin_above_the_ceiling_is_said_once_all_is_written(ask):
    found = ask(1.25, "--features", "emb", "--folds", "6")
    assert isinstance(found.error, InfeasibleError) and found.error.exit_status == 4
    assert "margins: above what this model can tell" in found.printed and "feasible: yes" in found.printed
    reach = found.json["attainable"]
    assert reach["reachable"] is False and reach["multipliers"] == ["inf"] and reach["forecast"] is None
    assert reach["ceiling"][0] < 1.25 < found.json["largest_margin"][0]
    low, high = reach["by_constraint"]["safe"]["ceiling_interval"]
    assert low < reach["ceiling"][0] < high and f"[{low:.4g}, {high:.4g}]" in printed(found)
    assert reach["by_constraint"]["safe"]["multiplier_interval"][1] == "inf"
    assert reach["unreachable_share"] > 0.5
    assert str(found.error).startswith(
        "margin reachable on the sample, but above what this model can tell of unseen prompts: "
        f"safe +1.25 (ceiling {reach['ceiling'][0]:+.4g}); ask for less"
    )
    assert "ceiling of training" in legend(found.curve)
    assert not any("attainable" in text for text in legend(found.curve))


def test_a_margin_out_of_the_samples_reach_keeps_its_own_message(ask):
    found = ask(9, "--features", "emb", "--folds", "6")
    assert isinstance(found.error, InfeasibleError) and "out of reach on these responses" in str(found.error)
    assert "margins: infeasible on the sample" in found.printed
    assert "ceiling of training" in legend(found.curve)


@pytest.mark.parametrize("margin", [0.3, 1.25])
def test_no_resamples_leave_the_bootstraps_intervals_out(ask, margin):
    """Those of means, which need none, stay."""
    found = ask(margin, "--features", "emb", "--folds", "6", resamples=0)
    reach = found.json["attainable"]
    assert reach["by_constraint"]["safe"].keys() == {"multiplier", "ceiling"}
    assert reach["unreachable_share"] is None and "intervals" not in found.json
    assert found.json["confidence"] == 0.95  # of the forecast's and the groups' intervals
    assert reach["reachable"] is (margin == 0.3) and found.curve is not None
    row = next(line for line in found.printed.splitlines() if f"{reach['ceiling'][0]:+.4g}" in line)
    assert "[" not in row.split("│")[3] and "[" not in row.split("│")[4]
    low, high = reach["forecast_of_plug_in"]["improvement"][0]["interval"]
    assert low < high


ALIKE = np.broadcast_to(FEATURES[:, :1], FEATURES.shape)
NOTHING = np.full((PROMPTS, RESPONSES), 1.5)


@pytest.mark.parametrize("margin, reachable", [(0.3, True), (1.25, False)])
def test_a_reward_that_never_varies(ask, margin, reachable):
    found = ask(margin, "--features", "emb", "--folds", "6", reward=NOTHING)
    reach = found.json["attainable"]
    assert (found.error is None) is reach["reachable"] is reachable and "nan" not in found.printed.lower()
    assert reach["correlations"][0] == 0 < reach["correlations"][1]
    assert reach["forecast_of_plug_in"]["reward"] == {"value": 0, "interval": [0, 0]}


@pytest.mark.parametrize("margin", [0.1, 0, -0.1])
def test_a_constraint_that_never_varies(ask, margin):
    """No training moves it, so that it allows no margin above 0, and none below needs a multiplier."""
    found = ask(margin, "--features", "emb", "--folds", "6", safe=NOTHING)
    reach = found.json["attainable"]
    assert "nan" not in found.printed.lower() and reach["ceiling"] == [0]
    assert reach["reachable"] is (margin <= 0) and reach["multipliers"] == ["inf" if margin > 0 else 0]
    assert (found.error is None) is (margin <= 0)
    if found.error is not None:
        assert str(found.error).startswith("out of reach: safe never differs between the responses to a")
        assert "undecided" not in found.printed


@pytest.mark.parametrize("margin", [0.1, 0, -0.1])
def test_responses_that_features_do_not_tell_apart(ask, margin):
    """The policy stays the reference: nothing is gained, and the table on the scores themselves stands."""
    found = ask(margin, "--features", "emb", "--folds", "6", emb=ALIKE)
    reach = found.json["attainable"]
    assert "nan" not in found.printed.lower() and found.json["multipliers"][0] > 0
    assert reach["correlations"] == [0, 0] and reach["ceiling"] == pytest.approx([0], abs=1e-7)
    assert reach["forecast_of_plug_in"]["kl"] == {"value": 0, "interval": [0, 0]}
    assert reach["reachable"] is (margin <= 0) and (found.error is None) is (margin <= 0)
    if found.error is not None:
        assert str(found.error).startswith(f"{ABOVE}: safe +0.1 (ceiling ")


def test_without_features_nothing_is_said_of_training(ask):
    found = ask(0.3)
    assert found.error is None and "attainable" not in found.json
    assert "margins:" not in found.printed and "ceiling of training" not in legend(found.curve)


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--features", "emb", "--folds", "49"], "--folds: .*49 folds of 48 prompts; give 2 to 48"),
        (["--features", "emb", "--folds", "1"], "--folds is 1; it must be an integer of at least 2"),
        (["--features", "emb", "--stream"], "--features does not go with --stream"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(ask, flags, match):
    error = ask(0.3, *flags).error
    assert error is not None and "\n" not in str(error)
    assert re.search(match, str(error))


@dataclasses.dataclass
class Solved:
    multipliers: np.ndarray
    ceiling: np.ndarray


ABOVE = "margin reachable on the sample, but above what this model can tell of unseen prompts"
TOGETHER = "margins reachable on the sample, but together above what this model can tell of unseen prompts"
UNSOLVED = "no multipliers that training could use were found, because the solver did not converge"
BOTH = "safe +0.5 (ceiling +0.6), polite -0.1 (ceiling +0.2); "


@pytest.mark.parametrize(
    "multipliers, ceiling, said",
    [
        ([np.inf, 1.0], [0.4, 0.2], f"{ABOVE}: safe +0.5 (ceiling +0.4); "),
        ([np.inf, np.inf], [0.4, -0.2], f"{ABOVE}: safe +0.5 (ceiling +0.4), polite -0.1 (ceiling -0.2); "),
        ([2.0, np.inf], [0.4, 0.2], f"{ABOVE}: safe +0.5 (ceiling +0.4); "),  # the last point missed another
        ([np.inf, 1.0], [0.6, 0.2], f"{TOGETHER}: {BOTH}"),
        ([np.inf, 0.0], [0.6, 0.2], f"{UNSOLVED}: {BOTH}"),  # nothing that it would conflict with
        ([2.0, 1.0], [0.6, 0.2], f"{UNSOLVED}: {BOTH}"),
        ([np.inf], [0.5], f"{UNSOLVED}: safe +0.5 (ceiling +0.5); "),
    ],
)
def test_why_no_multiplier_was_found(multipliers, ceiling, said):
    count = len(ceiling)
    found = Solved(np.array(multipliers), np.array(ceiling))
    asked = [Constraint("safe", margin=0.5), Constraint("polite", margin=-0.1)][:count]
    margins = np.array([each.margin for each in asked])
    message = shortfall_message(asked, margins, np.zeros(count), found)
    assert message.startswith(said) and "\n" not in message


def test_a_level_above_the_ceiling_is_said_as_it_was_asked(ask):
    """It was "safe +1.182 (ceiling +0.9391); lower it" of a mean of at most -1.2."""
    found = ask(1.25, "--features", "emb", "--folds", "6", resamples=0, goal="--at_least")
    best = SAFE.mean() + found.json["attainable"]["ceiling"][0]
    assert str(found.error) == (
        "reachable on the sample, but above what this model can tell of unseen prompts: safe: asked a mean "
        f"of at least 1.25, the reference has {SAFE.mean():.4g}, and the largest within the model's reach is "
        f"{best:.4g}; ask for less, sample more prompts, or use a larger model"
    )


def test_margins_out_of_reach_only_together(ask):
    found = ask(0.5, "--margin", "against=0.5", "--features", "emb", "--folds", "6")
    reach = found.json["attainable"]
    assert "margins: together above what this model can tell" in found.printed
    assert min(reach["ceiling"]) > 0.5 and reach["multipliers"] == ["inf", "inf"]
    assert isinstance(found.error, InfeasibleError) and str(found.error).startswith(TOGETHER)

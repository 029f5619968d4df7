"""What ``dual.png`` shows, and what ``dual.json`` and ``curve.parquet`` say beside it."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.analysis import result_files
from cann_jax.analysis.plots import ROWS, picture_of
from cann_jax.dual import main
from cann_jax.files.errors import InfeasibleError
from tests.analysis.example_files import PROMPTS, RESPONSES, TABLE

SAFE, POLITE, REWARD = (
    TABLE[name].to_numpy().reshape(PROMPTS, RESPONSES) for name in ("safe", "polite", "reward")
)
INVITING = TABLE["group"].to_numpy(zero_copy_only=False)[::RESPONSES] == "inviting"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Run the command on the example with ``harm``, a cost; return the picture's axes, and the files."""
    pictures = []
    monkeypatch.setattr(
        result_files, "draw_analysis", lambda path, *drawn: pictures.append(picture_of(*drawn))
    )

    def run(*goals: str, **more: np.ndarray) -> SimpleNamespace:
        table = TABLE
        for name, values in ({"harm": 3 - SAFE} | more).items():
            table = table.append_column(name, pa.array(values.ravel()))
        pq.write_table(table, tmp_path / "t.parquet")
        flags = ["--beta", "0.5", "--resamples", "20", "--out", str(tmp_path)]
        with contextlib.suppress(InfeasibleError):
            main(["--scores", str(tmp_path / "t.parquet"), *goals, *flags])
        answer = json.loads((tmp_path / "dual.json").read_text())
        curve = pq.read_table(tmp_path / "curve.parquet")
        return SimpleNamespace(figure=pictures[-1], axes=pictures[-1].axes, answer=answer, curve=curve)

    return run


def legend(axes) -> str:
    return "; ".join(text.get_text() for text in axes.get_legend().get_texts())


def labels(axes) -> tuple[str, str]:
    return axes.get_xlabel(), axes.get_ylabel()


def line(axes, label: str) -> np.ndarray:
    (found,) = (each for each in axes.get_lines() if str(each.get_label()).startswith(label))
    return np.array(found.get_data())


def test_a_cost_is_shown_with_its_sign(ask):
    found = ask("--margin", "harm=0.3", "--cost", "harm")
    multiplier, reward, cloud, kl = found.axes
    assert labels(multiplier) == ("margin of −harm", "λ of −harm")
    assert labels(kl) == ("improvement of −harm", "KL, nats") and reward.get_ylabel() == "reward"
    assert labels(cloud) == ("reward", "−harm")
    assert found.answer["costs"] == ["harm"] and found.answer["baseline"][0] < 0
    reward = ask("--margin", "safe=0.3", "--cost", "reward")
    assert [axes.get_ylabel() for axes in reward.axes[1:3]] == ["−reward", "safe"]
    both = ask("--reward", "harm", "--cost", "harm", "--margin", "harm=0.3")
    assert labels(both.axes[2]) == ("−harm", "−harm")
    assert reward.axes[2].get_xlabel() == "−reward" and ask("--margin", "safe=0.3").answer["costs"] == []


def test_several_constraints_have_a_row_each_by_the_factor_of_all_margins(ask):
    """The axis was one margin's and the curve ended far below the largest of it."""
    found = ask("--margin", "safe=0.4", "--margin", "polite=0", "--at_least", "reward=0.2")
    assert len(found.axes) == 4 * 3 and [axes.get_ylabel() for axes in found.axes[::4]] == [
        "λ of safe",
        "λ of polite",
        "λ of reward",
    ]
    scale = found.answer["margin_scale"]
    for row, name in enumerate(found.answer["constraints"]):
        axes = found.axes[4 * row]
        curve, largest = line(axes, "λ* by s"), line(axes, "largest s on the sample")
        assert axes.get_xlabel() == "s: all margins scaled together"
        assert curve[0][0] == 0 and 0.9 * scale < curve[0][-1] < largest[0][0] == pytest.approx(scale)
        assert np.interp(1, *curve) == pytest.approx(found.answer["multipliers"][row], abs=0.02)
        assert found.axes[4 * row + 3].get_xlabel() == f"improvement of {name}, all margins scaled together"


def test_more_constraints_than_the_picture_holds_are_counted(ask):
    names = [f"score{j}" for j in range(ROWS + 1)]
    more = {name: SAFE + (0.1 + j) * REWARD for j, name in enumerate(names)}
    goals = [part for name in names for part in ("--margin", f"{name}=0.1")]
    found = ask(*goals, **more)
    assert len(found.axes) == 4 * ROWS and found.figure.get_suptitle().startswith("8 of 9 constraints")


def test_margins_out_of_reach_have_no_policy(ask):
    """Weights at λ = 0 were drawn as those under λ*, and numbers of an unfinished point were written."""
    found = ask("--margin", "safe=50", "--margin", "polite=0.1")
    multiplier, _, cloud, kl = found.axes[:4]
    assert "weight" not in legend(cloud) and "under" not in legend(cloud) and "at λ*" not in legend(kl)
    assert "s = 1: margin = 50, not in the picture" in legend(multiplier)
    assert cloud.get_ylim()[1] < 10 and multiplier.get_xlim()[1] < 1  # what there is to see is seen
    for name in ("value", "predicted_reward", "kl", "effective_sample_size", "kl_share_of_log_responses"):
        assert found.answer[name] is None, name
    for name in ("slack", "predicted_constraints", "predicted_improvement"):
        assert found.answer[name] == [None, None], name
    assert found.answer["multipliers"][0] == "inf" and found.answer["kkt_residual"] > 0
    assert found.answer["by_constraint"]["safe"]["predicted_improvement"] is None
    rows = found.curve.to_pandas()
    assert rows["kl"].isna().equals(rows["feasible"] == "no") and rows["kl"].isna().sum() > 10


def test_a_group_is_shown_alone_and_in_the_tables_units(ask):
    """Two thirds of the points lay at 0 and the others at three times their values."""
    found = ask("--margin", "safe@inviting=0.4")
    cloud = found.axes[2]
    shown = np.asarray(cloud.collections[0].get_offsets())
    np.testing.assert_allclose(shown[:, 0], REWARD[INVITING].ravel(), rtol=1e-5)
    np.testing.assert_allclose(shown[:, 1], SAFE[INVITING].ravel(), rtol=1e-5)
    before = line(cloud, "mean of the reference").ravel()
    np.testing.assert_allclose(before, [REWARD[INVITING].mean(), SAFE[INVITING].mean()], rtol=1e-4)
    after = line(cloud, "mean under λ*").ravel()
    assert after[1] == pytest.approx(before[1] + 0.4, abs=1e-3)
    (group,) = (each for each in found.answer["groups"] if each["group"] == "inviting")
    assert after[0] == pytest.approx(group["scores"]["reward"]["at_lambda"], rel=1e-4)
    assert cloud.get_title() == "Responses to prompts of inviting"


def test_an_interval_stands_at_its_margin_and_a_curve_that_leaves_says_how_far_it_goes(ask):
    found = ask("--margin", "safe=0.4")
    multiplier, _, cloud, _ = found.axes
    low, high = found.answer["by_constraint"]["safe"]["multiplier_interval"]
    assert low < found.answer["by_constraint"]["safe"]["multiplier"] < high
    np.testing.assert_allclose(line(multiplier, "interval of λ*"), [[0.4, 0.4], [low, high]])
    assert f"interval of λ*: {low:.3g} to {high:.3g}" in legend(multiplier)
    at, top = line(multiplier, "λ* goes on").ravel()
    curve = line(multiplier, "λ* by the margin")
    assert top == multiplier.get_ylim()[1] and np.interp(top, *curve[::-1]) == pytest.approx(at, abs=0.02)
    assert f"λ* goes on, to {curve[1].max():.3g}" in legend(multiplier)
    weights = [each for each in cloud.collections if each.get_label() == "its weight under λ*"]
    assert weights[0].get_alpha() is None and weights[0].get_sizes()[0] > 10


def test_wide_ticks_leave_every_label_within_the_picture(ask):
    found = ask("--margin", "huge=-4e6", huge=1e7 * POLITE)
    found.figure.draw_without_rendering()
    width, height = found.figure.canvas.get_width_height()
    for axes in found.axes:
        box = axes.get_tightbbox()
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height

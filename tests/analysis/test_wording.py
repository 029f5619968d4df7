"""What the dual command says: in the units in which it was asked, with what holds before and after."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from cann_jax.analysis.by_group import Group
from cann_jax.analysis.console import (
    _numbers,
    _print_grid,
    _print_groups,
    resample_notes,
    strain_notes,
    unconverged_message,
)
from cann_jax.analysis.wording import improvement_cell
from cann_jax.core.exploration.finite_sample import limit_of
from cann_jax.core.exploration.means import Estimate
from cann_jax.core.feasibility import Feasible
from cann_jax.dual import main
from cann_jax.files.errors import InfeasibleError, InputError
from cann_jax.files.numbers import apart, counted, with_interval
from tests.analysis.small_table import REWARD, SAFE, K, N, long, refused, save

QUICK = ["--beta", "0.5", "--resamples", "0"]
HARM = np.round(1.3 - SAFE, 3)


@pytest.fixture
def table(tmp_path) -> str:
    group = np.repeat(["a", "b"], N * K // 2).tolist()
    return save(tmp_path / "t.parquet", long(harm=HARM.ravel().tolist(), group=group))


def printed(capsys, path: str, *flags: str) -> str:
    main(["--scores", path, *QUICK, *flags])
    return capsys.readouterr().out


def test_a_level_of_a_cost_in_its_own_units(table, capsys):
    """The same problem as by --cost, and said as it was asked."""
    goals = ["--at_most", "harm=1", "--at_most", "harm@a=0.9"]
    own = printed(capsys, table, *goals)
    turned = ["--cost", "harm", "--at_least", "harm=-1", "--at_least", "harm@a=-0.9"]
    assert own == printed(capsys, table, *turned)
    line = rf"harm: asked a mean of at most 1; the reference has {HARM.mean():.4g}, lambda\* gives \S+\n"
    assert re.search(line, own) and "harm@a: asked a mean of at most 0.9; the reference has" in own


def test_a_share_of_a_cost_in_its_own_units(table, capsys):
    goals = ["--max_unsafe", "harm=0.3", "--unsafe_above", "harm=1.5"]
    own = printed(capsys, table, *goals)
    turned = ["--cost", "harm", "--max_unsafe", "harm=0.3", "--unsafe_below", "harm=-1.5"]
    assert own == printed(capsys, table, *turned)
    before = 100 * np.mean(HARM > 1.5)
    assert f"harm: asked at most 30% of responses above 1.5; the reference has {before:.3g}%" in own
    assert "share of harm <= 1.5" in own and "--unsafe_above harm=VALUE" not in own


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["memory", "stream"])
def test_what_is_out_of_reach_is_said_as_it_was_asked(table, capsys, stream):
    lowest = HARM.min(1).mean()
    with pytest.raises(InfeasibleError) as caught:
        main(["--scores", table, "--at_most", f"harm={lowest - 0.001:.4g}", *stream])
    assert str(caught.value) == (
        f"out of reach on these responses: harm: asked a mean of at most {lowest - 0.001:.4g}, the reference "
        f"has {HARM.mean():.4g}, and the lowest that can be chosen is {lowest:.4g}; "
        "ask for less or sample more"
    )
    if not stream:
        question = (
            r"undecided: harm: asked a mean of at most \S+; is that within reach\? The lowest is (\S+) \["
        )
        found = re.search(question + r"(\S+), (\S+)\]", capsys.readouterr().out)
        assert float(found[2]) < float(found[1]) < float(found[3])
    with pytest.raises(InfeasibleError, match=r"safe 30 \(largest 0\.\d+\); check its units, lower it"):
        main(["--scores", table, "--margin", "safe=30", *stream])


def test_a_default_threshold_of_a_cost_is_said(table, capsys):
    with pytest.raises(InfeasibleError):
        main(["--scores", table, "--cost", "harm", "--max_unsafe", "harm=0.01"])
    assert "harm: a response above 0 is unsafe, by default; --unsafe_above harm=VALUE sets" in (
        " ".join(capsys.readouterr().out.split())
    )


WRONG = {
    "--at_most reward=5": "reward is the reward, of which more is better, and has an upper bound",
    "--at_most harm": "--at_most harm: write --at_most NAME=VALUE",
    "--at_most harm=30%": "--at_most harm: '30%' is not a number; write 0.3",
    "--margin safe=0,3": "--margin safe: '0,3' is not a number; write 0.3",
    "--margin safe=low": "'low' is not a number; write one, such as NAME=0.3",
    "--margin safe": "--margin safe: has no value; write one, such as --margin safe=0.3",
    "--margin safe=1 --unsafe_above harm=1": "--unsafe_above harm: no --max_unsafe is about it",
    "--max_unsafe harm=0.1 --unsafe_above harm=1 --unsafe_above harm=2": "--unsafe_above harm: given 2 times",
    "--max_unsafe harm=0.1 --unsafe_below harm=1 --unsafe_above harm=1": "--unsafe_below bounds it too",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_goals(table, flags):
    assert WRONG[flags] in refused(table, *flags.split())


def test_before_and_after_are_shown_without_groups(tmp_path, capsys):
    """Who forgets --cost sees what rises."""
    path = save(tmp_path / "t.parquet", long(harm=HARM.ravel().tolist()))
    out = printed(capsys, path, "--margin", "harm=0.2")
    row = next(line for line in out.splitlines() if "all prompts" in line)
    assert f"{HARM.mean():.4g} → {HARM.mean() + 0.2:.4g}" in row and f"{REWARD.mean():.4g} → " in row


def test_a_reward_that_is_a_cost_is_headed_by_its_sign(tmp_path, capsys):
    path = save(tmp_path / "t.parquet", long(harm=HARM.ravel().tolist()))
    out = printed(capsys, path, "--reward", "harm", "--cost", "harm", "--margin", "safe=0.1")
    heads = next(line for line in out.splitlines() if "group" in line and "prompts" in line)
    assert "-reward" in heads and f"{-HARM.mean():.4g} → " in out


@pytest.mark.parametrize("goal", [["--margin", "safe=0.1"], ["--max_unsafe", "safe=0.1"]])
def test_scores_that_never_differ_within_a_prompt_raise_no_question(tmp_path, capsys, goal):
    level = np.repeat(-1.0 - np.arange(N), K).tolist()
    with pytest.raises(InfeasibleError) as caught:
        main(["--scores", save(tmp_path / "t.parquet", long(safe=level)), *goal])
    said = "every response is below 0" if "--max_unsafe" in goal else "never differs between the responses"
    assert said in str(caught.value) and "undecided" not in capsys.readouterr().out


def test_one_response_a_prompt_is_said_as_such(tmp_path, capsys):
    rows = {name: values[::K] for name, values in long().items()}
    with pytest.raises(InfeasibleError, match="every prompt has one response only"):
        main(["--scores", save(tmp_path / "t.parquet", rows), "--margin", "safe=0.1"])
    assert "undecided" not in capsys.readouterr().out


def test_lower_margins_are_no_remedy_where_no_margin_costs():
    limit = limit_of(np.float32(2.0), float(np.log(8)))
    (free,) = strain_notes(Feasible.YES, limit, np.zeros(2))
    (active,) = strain_notes(Feasible.YES, limit, np.array([0, 1.0]))
    assert free.endswith("responses a prompt, or raise beta.") and "raise beta, or ask for less" in active


def test_intervals_are_not_broken():
    """In 40 columns; 80 and 110 were too narrow for tables of several scores."""
    out = Console(width=40, file=io.StringIO())
    _print_grid(out, ("a", "b", "c"), [("x", "1.234 [1.111, 1.333]", "2.345 [2.222, 2.444]")], "t")
    assert "[1.111, 1.333]" in out.file.getvalue() and "[2.222, 2.444]" in out.file.getvalue()


def test_digits():
    assert with_interval(1.4308, 1.283, 1.557) == "1.43 [1.28, 1.56]"
    assert with_interval(0.58408, 0.5583, 0.6083) == "0.584 [0.558, 0.608]"
    assert with_interval(1234.5, 900, 1600) == "1230 [900, 1600]"
    assert with_interval(0.5, 0.1, np.inf) == "0.5 [0.1, inf]" and with_interval(0, 0, 0) == "0 [0, 0]"
    assert with_interval(1.2345678, 1.2345677, 1.2345679) == "1.2346 [1.2346, 1.2346]"
    assert with_interval(0.1234, 0.00268, 0.3021) == "0.12 [0.0027, 0.30]"  # was [0.00, 0.30]
    assert with_interval(0.1234, 0, 0.3021) == "0.12 [0.00, 0.30]"
    assert apart(1.0003, 1.0005) == ("1.0003", "1.0005") and apart(1, 1.5) == ("1", "1.5")
    assert counted(1, "prompt") == "1 prompt" and counted(12_000_000, "prompt") == "12,000,000 prompts"


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["memory", "stream"])
def test_a_level_just_out_of_reach_is_told_from_the_best(table, stream):
    """Both were 1.391 where 1.3908 was asked."""
    highest = float(SAFE.max(1).mean())
    level = float(f"{highest + 2e-5:.6g}")
    with pytest.raises(InfeasibleError) as caught:
        main(["--scores", table, "--at_least", f"safe={level}", *stream])
    found = re.search(r"at least (\S+), .* that can be chosen is (\S+);", str(caught.value))
    assert float(found[1]) == level and highest - 1e-5 < float(found[2]) < level


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["memory", "stream"])
def test_a_margin_that_is_met_is_the_improvement(table, capsys, stream):
    """1.3355 was shown as 1.336, met by 1.335."""
    asked = "0.12345"
    main(["--scores", table, "--margin", f"safe={asked}", "--beta", "2", *(stream or ["--resamples", "0"])])
    row = next(line for line in capsys.readouterr().out.splitlines() if "safe" in line)
    cells = re.findall(r"\d[\d.e+-]*", row)
    assert cells[0] == cells[-1] == asked


@pytest.mark.parametrize("slack, shown", [(1e-6, "as asked"), (0.3, "0")])
def test_noise_is_no_improvement(slack, shown):
    """It was +3.499e-09."""
    found = SimpleNamespace(slack=[slack], spread=[1.0], predicted_improvement=[3.5e-9])
    assert improvement_cell(found, 0, "as asked") == shown


def test_what_lies_on_the_edge_is_to_be_asked_for_less():
    """A share of 0 was to be lowered."""
    message = unconverged_message(Feasible.UNDETERMINED, SimpleNamespace(converged=False))
    assert "ask for slightly less" in message and "lower" not in message


def test_levels_together_are_no_margins(table, capsys):
    levels = printed(capsys, table, "--at_least", "safe=0.1", "--at_least", "safe@a=0.1")
    assert "all improvements needed can be scaled by at most" in levels and "all margins" not in levels
    margins = printed(capsys, table, "--margin", "safe=0.1", "--margin", "safe@a=0.1")
    assert "all margins can be scaled by at most" in margins


def test_resamples_too_few_for_the_confidence_are_said():
    assert resample_notes(200, 0.99) == [] == resample_notes(40, 0.95)
    (note,) = resample_notes(200, 0.9999999)
    assert note.startswith("200 resamples for intervals of confidence 0.9999999, which need 20,000,000: ")


def test_many_scores_are_rows_of_the_table_of_groups():
    """Of 42 columns nothing was left but their borders."""
    out, names = Console(width=110, file=io.StringIO()), [f"c{j}" for j in range(14)]
    means, change = dict.fromkeys(names, 0.25), dict.fromkeys(names, Estimate(3e-9, -0.125, 0.5))
    _print_groups(out, [Group(name, 9, means, means, change) for name in ("all prompts", "a")], ["c13"])
    rows = [line for line in out.file.getvalue().splitlines() if " -c13 " in line]
    assert len(rows) == 2 and all("0.25 → 0.25" in row and "+0 [-0.125, +0.5]" in row for row in rows)


def test_numbers_of_several_constraints_have_names():
    assert _numbers(["safe"], [0.5]) == "0.5" and _numbers(["a", "b"], [0.5, 1]) == "a 0.5, b 1"


def test_no_goal_at_all_names_them(table):
    with pytest.raises(InputError, match="give --margin, --at_least, --at_most or --max_unsafe"):
        main(["--scores", table])

"""What the dual command says: in the units in which it was asked, with what holds before and after."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from cann_jax.analysis.console import _print_grid, strain_notes
from cann_jax.core.exploration.finite_sample import limit_of
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
    assert (
        free.endswith("responses a prompt, or raise beta.") and "raise beta, or lower the margins" in active
    )


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
    assert apart(1.0003, 1.0005) == ("1.0003", "1.0005") and apart(1, 1.5) == ("1", "1.5")
    assert counted(1, "prompt") == "1 prompt" and counted(12_000_000, "prompt") == "12,000,000 prompts"


def test_no_goal_at_all_names_them(table):
    with pytest.raises(InputError, match="give --margin, --at_least, --at_most or --max_unsafe"):
        main(["--scores", table])

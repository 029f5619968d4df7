"""The dial's page compares rows of one draw, and bad arguments are refused before anything runs."""

import runpy
from types import SimpleNamespace

import pytest

from tests.builders import ROOT


@pytest.fixture
def dial(monkeypatch) -> SimpleNamespace:
    """The script."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as Python does for a program
    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks/dial.py"), run_name="imported"))


def row(method: str, margin: float, draw: str, seconds: float, measured: float = 0.2) -> dict:
    return {
        "key": [method, margin, 0], "draw": draw, "machine": "this", "multiplier": 2.0, "scale": 1.0,
        "kl": 1.0, "measured": measured, "interval": [0.1, 0.3], "reward": 0.5,
        "reward_interval": [0.25, 0.75], "seconds": {"experts": seconds, "calibrate": 1.0},
    }  # fmt: skip


def test_rows_of_different_draws_are_not_mixed(dial):
    rows = [row("dial", 0.2, "a", 10), row("trained", 0.2, "b", 40, 0.1), row("dial", 0.2, "b", 30, 0.3)]
    rows += [row("dial", 0.2, "b", 9)]  # of other settings: it takes the place of the one before
    page = dial.report(rows)
    for heading in ("## dial, draw a", "## dial, draw b", "## trained, draw b"):
        assert page.count(f"{heading}\n") == 1
    assert page.count("|measured − asked|: 0.000; within: 1 of 1") == 2
    assert page.count("|measured − asked|: 0.100") == 1
    assert "Draw a: " not in page
    assert "Draw b: 1 margins and seeds" in page and "10 s by the dial, 41 s by a training each" in page


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--methods", "dail"], "there is no 'dail'; did you mean dial?"),
        (["--margins", "0.1,x"], "'x' is no float; write them like 0.1,0.2"),
        (["--seeds", "0.5"], "'0.5' is no int"),
    ],
)
def test_bad_arguments_are_refused(dial, flags, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dial.py", *flags])
    with pytest.raises(SystemExit) as refused:
        dial.main()
    assert refused.value.code == 2 and message in capsys.readouterr().err

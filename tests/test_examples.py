"""The examples run and do what they print; benchmarks are no older than the functions that they call."""

import runpy

import pytest

from tests.builders import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted([*EXAMPLES.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_it_imports(program, monkeypatch):
    monkeypatch.syspath_prepend(program.parent)  # as Python does for a program
    runpy.run_path(str(program), run_name="imported")


def test_own_loop_reaches_what_was_predicted(capsys):
    source = EXAMPLES / "own_loop.py"
    assert len(source.read_text().splitlines()) < 60
    predicted, reached = runpy.run_path(str(source))["main"]()
    assert predicted == pytest.approx(0.4, abs=1e-4)
    assert reached == pytest.approx(predicted, abs=0.03)
    assert "lambda*" in capsys.readouterr().out

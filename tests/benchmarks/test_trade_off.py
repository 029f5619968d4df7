"""Every method's flags are settings, and the page says what the rows do."""

import pytest

from benchmarks.trade_off import MARGINS, configuration, points
from benchmarks.trade_off_page import write_page
from cann_jax.command_line.run_options import parse_run
from tests.builders import ROOT


@pytest.mark.parametrize("scorers", MARGINS)
def test_every_row_is_a_run_that_train_accepts(scorers, tmp_path):
    config, name = configuration(tmp_path, ROOT / "configs/quickstart.yaml", scorers)
    for method, dials in points(scorers, name).items():
        for dial, flags in dials.items():
            parsed = parse_run(["--config", str(config), "--run_dir", str(tmp_path), *flags])[0]
            assert list(parsed.constraints) == [name]
            if method in ("one_shot", "primal_dual", "resample"):
                assert parsed.constraints[name].margin == dial


def row(method: str, seed: int, seconds: float, verdict: str = "holds", dial: float = 0.2) -> dict:
    compute = {"policy_rounds": 1, "generated_tokens": 10, "training_flops": 3e15, "seconds": seconds}
    return {
        "key": ["quickstart", method, dial, seed], "machine": "this", "measured": 0.2 + seed / 100,
        "interval": [0.1, 0.3], "reward": 0.5, "reward_interval": [0.25, 0.75], "kl": 1.0,
        "verdict": verdict, "compute": compute,
    }  # fmt: skip


def test_the_page(tmp_path):
    rows = [row("one_shot", 0, 60), row("one_shot", 1, 120), row("primal_dual", 0, 360)]
    rows += [row("resample", 0, 60, "undecided")]
    rows += [{"key": ["quickstart", "one_shot", 0.9, 0], "refused": "error: too far", "machine": "this"}]
    write_page(tmp_path, rows, "What it is.\n\n    command")
    page = (tmp_path / "trade_off.md").read_text()
    of_one_shot = "| one_shot | 0.2 | 2 | +0.205 [+0.100, +0.300] | +0.500 [+0.250, +0.750] | 1.00 | 0.005 |"
    assert f"{of_one_shot} 2 of 2 | 1 | 10 | 3.0 | 1.5 |" in page
    assert "margin 0.2: certified after 1.5 min in one shot, 6.0 min by primal-dual: 0.25×" in page
    assert "| 0 of 1 | 1 | 10 |" in page and "error: too far" in page
    assert (tmp_path / "trade_off.png").stat().st_size > 10_000

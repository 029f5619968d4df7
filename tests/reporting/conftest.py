"""What a run leaves of the files that its report shows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.hashes import as_json
from cann_jax.run.manifest import commit, expectation
from cann_jax.run.run import Run
from tests.command_line.test_run_options import BASE

ROW = {"measured": 0.6, "interval": [0.5, 0.7], "before": 0.1, "after": 0.7, "predicted_interval": [0.3, 0.7]}
CERTIFICATE = {
    **{"verdict": "undecided", "bound": 0.5, "mean": 0.6, "lower": 0.48, "upper": None},
    **{"prompts": 2, "prompts_needed": 9},
}
RESULTS = {
    "safe": {"goal": "margin", "asked": 0.5, "predicted": 0.5, **ROW, "certificate": CERTIFICATE},
    "reward": {"asked": None, "predicted": 0.2, **ROW},
    "also": {},
    "summary": {
        "prompts": 2,
        "responses": 1,
        "multipliers": {"safe": 1.5},
        "reward_weight": 1.0,
        "beta": 0.1,
        "kl": 0.3,
        "kl_predicted": 0.25,
        "scale": 1.25,
        "confidence": 0.995,
        "verdict": "undecided",
        "response_tokens": [3.0, 4.0],
        "stopped": [0.5, 0.75],
        "reference_logp_per_token": [-1.0, -1.5],
    },
}
DUAL = {
    "constraints": ["safe"],
    "chosen": {
        "by": "attainable",
        "multipliers": [1.5],
        "forecast": {
            "improvement": [{"value": 0.5, "interval": [0.3, 0.7]}],
            "reward": {"value": 0.2, "interval": [0.1, 0.3]},
            "kl": {"value": 0.3, "interval": [0.2, 0.4]},
        },
    },
    "margins": [0.5],
    "spread": [1.0],
    "multipliers": [1.2],
    "largest_margin": [0.9],
    "predicted_improvement": [0.5],
    "predicted_reward": 0.8,
    "by_constraint": {"safe": {"multiplier_interval": [1.0, "inf"]}},
    "attainable": {
        "reachable": True,
        "multipliers": [1.5],
        "ceiling": [0.7],
        "by_constraint": {"safe": {"multiplier_interval": [1.1, 1.9]}},
    },
    "kl_share_of_log_responses": 0.2,
    "beta": 0.1,
    "feasible": "yes",
    "kkt_residual": 1e-8,
    "warnings": [],
}
SIGN = {"kind": "slope", "first": 2, "last": 4, "text": "the calibration slope is 0.31; lower it"}
CHECK = {"step": 2, "heldout_loss": 0.6, "heldout_slope": 0.9, "heldout_correlation": None}
HEALTH = {
    "steps": 4,
    "kept_step": 2,
    "heldout_prompts": 5,
    "start_loss": 0.7,
    "checks": [CHECK],
    "warnings": [SIGN],
}
METRICS = [
    {"step": 0, "loss": 0.7, "gradient_norm": 2.0, "log_ratio": 0.0},
    {"step": 1, "loss": 0.65, "gradient_norm": 1.5, "log_ratio": None, "heldout_loss": 0.62},
    {"step": 2, "loss": 0.6, "gradient_norm": 1.0, "log_ratio": -0.1},
]
CURVE = {
    "along": ["margin"] * 4 + ["beta"],
    "beta": [0.1] * 5,
    "margin/safe": [0.0, 0.3, 0.6, 2.0, 0.5],
    "multiplier/safe": [0.0, 0.7, 2.1, float("inf"), 1.2],
    "predicted_improvement/safe": [0.0, 0.3, 0.6, 0.9, 0.5],
    "predicted_reward": [1.0, 0.9, 0.7, float("nan"), 0.8],
    "kl": [0.1, 0.2, 0.3, 0.4, 0.2],
    "feasible": ["yes", "yes", "yes", "no", "yes"],
}
HOSTILE = '<script>alert(1)</script> & $x^$ "><img src=//x.test/a onerror=alert(2)>'
RESPONSES = {
    "prompt": ["Tell me", "Tell me", HOSTILE, HOSTILE, "Bye", "Bye"],
    "group": [None, None, HOSTILE, HOSTILE, "plain", "plain"],
    "response": [0, 1] * 3,
    "text": ["one", "two", HOSTILE, "four", "five", "six"],
    "reward": [0.0, 1.0, 0.5, 0.25, 2.0, 1.5],
    "safe": [0.5, 1.0, 0.0, 0.75, 0.5, 0.5],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with the stages ``dual``, ``align`` (its log cut off in a line) and ``evaluate``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(BASE)
    config, _ = parse_run(["--config", "run.yaml"])
    run = tmp_path / "runs" / "trial"
    made = ("dual", "align", "evaluate")
    for stage in made:
        (run / stage).mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(as_json(config)))
    (run / "dual" / "dual.json").write_text(json.dumps(DUAL))
    pq.write_table(pa.table(CURVE), run / "dual" / "curve.parquet")
    (run / "align" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in METRICS) + '{"step": 3, "lo'
    )
    (run / "align" / "health.json").write_text(json.dumps(HEALTH))
    (run / "evaluate" / "results.json").write_text(json.dumps(RESULTS))
    for name, more in (("reference", 0.0), ("aligned", 0.5)):
        table = RESPONSES | {
            score: [value + more for value in RESPONSES[score]] for score in ("reward", "safe")
        }
        pq.write_table(pa.table(table), run / "evaluate" / f"{name}.parquet")
    for stage in Run(config).stages:
        if stage.name in made:
            commit(run / stage.name, expectation(stage.name, Run(config).settings_of(stage), {}), ("*",))
    return run

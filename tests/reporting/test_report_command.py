"""The report command: finished runs are reported again, other folders are refused in one line."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.report import main
from cann_jax.reporting.markdown import _table as markdown_table
from cann_jax.run.manifest import commit, expectation
from cann_jax.run.run import Run
from tests.command_line.test_run_options import BASE

ROW = {"measured": 0.6, "interval": [0.5, 0.7], "before": 0.1, "after": 0.7, "predicted_interval": [0.3, 0.7]}
CERTIFICATE = {
    **{"verdict": "undecided", "bound": 0.5, "mean": 0.6, "lower": 0.48, "upper": None},
    **{"prompts": 2, "prompts_needed": 9},
}
RESULTS = {
    "safe": {"asked": 0.5, "predicted": 0.5, **ROW, "certificate": CERTIFICATE},
    "reward": {"asked": None, "predicted": 0.2, **ROW},
    "also": {},
    "summary": {
        "prompts": 2,
        "responses": 1,
        "multipliers": {"safe": 1.5},
        "beta": 0.1,
        "kl": 0.3,
        "kl_predicted": 0.25,
        "scale": 1.25,
        "confidence": 0.95,
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
METRICS = {"step": 1, "loss": 0.6, "margin_p10": -1.0, "margin_p90": 1.0, "margin_mean": 0.1}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a run leaves of the files that its report shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(BASE)
    config, _ = parse_run(["--config", "run.yaml"])
    run = tmp_path / "runs" / "trial"
    made = ("dual", "align", "evaluate")
    for stage in made:
        (run / stage).mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(as_json(config)))
    (run / "dual" / "dual.json").write_text(json.dumps(DUAL))
    (run / "align" / "metrics.jsonl").write_text(json.dumps(METRICS) + "\n")
    (run / "align" / "health.json").write_text(json.dumps(HEALTH))
    (run / "evaluate" / "results.json").write_text(json.dumps(RESULTS))
    table = {"prompt": ["p", "q"], "response": [0, 0], "text": ["a", "b"]}
    table |= {"reward": [0.0, 1.0], "safe": [0.5, 1.0]}
    for name in ("reference", "aligned"):
        pq.write_table(pa.table(table), run / "evaluate" / f"{name}.parquet")
    for stage in Run(config).stages:
        if stage.name in made:
            commit(run / stage.name, expectation(stage.name, Run(config).settings_of(stage), {}), ("*",))
    return run


@pytest.mark.parametrize("moved", [False, True])
def test_a_finished_run_is_reported_again_wherever_it_is(folder, tmp_path, capsys, moved):
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    main([str(folder.relative_to(tmp_path))])
    verdict = "safe: UNDECIDED. Asked +0.500, measured +0.600 [+0.500, +0.700] on 2 unseen prompts"
    assert capsys.readouterr().out.splitlines()[-1] == verdict
    text = (folder / "report.md").read_text()
    assert text.startswith("# elsewhere" if moved else "# trial")
    assert text.splitlines()[2] == f"**{verdict}**  "
    assert "lower bound +0.480, upper bound none, for +0.500; about 9 prompts would decide" in text
    assert "- 5 prompts kept from training: loss 0.700 → 0.600, calibration slope 0.900\n" in text
    assert "- stopped early: the weights are those after step 2 of 4\n" in text
    assert "- **warning**, after step 2 and last after step 4: the calibration slope is 0.31" in text
    assert (folder / "clouds.png").exists() and (folder / "training.png").exists()


def test_all_folders_are_checked_before_the_first_report(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "evaluate" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"other: the run is not finished, its stage 'evaluate' is missing"):
        main([str(folder), str(other)])
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize(
    "name, old, new, stale",
    [
        ("dual/dual.json", "1.5", "2.5", r"'dual' is stale: outputs\.dual\.json was altered"),
        ("evaluate/aligned.parquet", "", "", r"'evaluate' is stale: outputs\.aligned\.parquet was altered"),
        ("dual/manifest.json", "0", "1", r"'dual' is stale: "),
        ("config.json", '"confidence": 0.95', '"confidence": 0.85', r"'dual' is stale: settings\.evaluate"),
        ("align/manifest.json", "{", "", r"align/manifest.json is corrupt; delete the folder"),
    ],
)
def test_no_report_of_altered_files(folder, name, old, new, stale):
    path = folder / name
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1) if old else b"PAR1")
    with pytest.raises(InputError, match=stale) as caught:
        main([str(folder)])
    assert "\n" not in str(caught.value) and not (folder / "report.md").exists()


@pytest.mark.parametrize(
    "content, match", [(None, "is not a run's folder"), ("{}", "is not the configuration"), ("{", "corrupt")]
)
def test_other_folders(tmp_path, content, match):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=match) as caught:
        main([str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_table_keeps_its_columns_whatever_a_name_holds():
    assert markdown_table(("score", "asked"), [("a|b", "1")]).splitlines()[-1] == r"| a\|b | 1 |"

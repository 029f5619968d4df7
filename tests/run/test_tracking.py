"""Trackers by name: what they are told of a training and its outcome; nothing leaves this machine."""

import dataclasses
import importlib.machinery
import json
import shutil
import sqlite3
import sys
import types

import pytest
from etils import epath

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.run import tracking
from cann_jax.run.outputs import read_results
from cann_jax.run.run import Run
from cann_jax.run.tracking import check_tracking, conclude, tracked
from cann_jax.training.metrics import Metrics
from cann_jax.training.trackers.base import Tracker, Unfailing
from tests.reporting.conftest import folder  # noqa: F401
from tests.training.test_metrics import events


@pytest.fixture
def run(folder) -> Run:  # noqa: F811
    """A run that has ended, without a model."""
    return Run(parse_run(["--config", "run.yaml"])[0])


def logged(run: Run, *names: str, steps: range = range(3)) -> None:
    """Log a training of 3 steps, and the outcome."""
    given = Run(dataclasses.replace(run.config, metrics=("jsonl", *names)))
    for name in ("report.html", "report.md"):
        (run.folder / name).write_text("undecided")
    with tracked(given):
        with Metrics(run.folder / "align", steps.start, "align") as metrics:
            for step in steps:
                metrics.write(step, {"loss": 1 - step / 4, "margin": float("nan")})
        conclude(given, read_results(run), ())


def test_tensorboard(run):
    earlier = run.folder / "tensorboard/events.out.tfevents.1.earlier"
    earlier.parent.mkdir()
    earlier.write_bytes(b"")
    logged(run, "tensorboard")
    assert not earlier.exists()  # an outcome replaces those before
    rows = events(epath.Path(run.folder / "align/tensorboard"))
    assert [row.summary.value[0].tag for row in rows[2:]] == ["align/loss"] * 3
    (_, row) = events(epath.Path(run.folder / "tensorboard"))
    found = {each.tag: each for each in row.summary.value}
    assert found["safe/measured"].simple_value == pytest.approx(0.6)
    assert found["verdict"].tensor.string_val == [b"undecided"]
    assert found["verdict_in_words"].tensor.string_val[0].startswith(b"safe: UNDECIDED. Asked +0.500")


def test_nothing_but_the_file_where_no_tracker_is_named(run):
    logged(run)
    assert not (run.folder / "align/tensorboard").exists() and not (run.folder / "tensorboard").exists()
    assert len((run.folder / "align/metrics.jsonl").read_text().splitlines()) == 3
    assert not (run.folder / tracking.ID).exists()


def test_wandb_offline(run, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(run, "wandb")
    (log,) = (run.folder / "wandb").glob("offline-run-*/run-*.wandb")
    data = log.read_bytes()
    assert b"align/loss" in data and b"safe/measured" in data and b"UNDECIDED" in data
    assert wandb.run is None  # finished


def test_mlflow_on_this_machine(run, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    logged(run, "mlflow")
    logged(run, "mlflow", steps=range(3, 4))  # goes on in the same run
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("cann_jax").experiment_id])
    history = client.get_metric_history(found.info.run_id, "align/loss")
    assert [(each.step, each.value) for each in history] == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert found.data.metrics["safe/measured"] == pytest.approx(0.6)
    assert found.data.tags["verdict"] == "undecided" and found.data.params["dual.beta"] == "0.1"
    assert [each.path for each in client.list_artifacts(found.info.run_id)] == [
        *("report.html", "report.md", "results.json")
    ]
    assert found.info.status == "FINISHED"


def test_trackio_on_this_machine(run, monkeypatch, tmp_path):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    logged(run, "trackio")
    (database,) = (tmp_path / "trackio").rglob("cann_jax.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by id")]
    assert [row["align/loss"] for row in rows[:3]] == [1.0, 0.75, 0.5]
    assert rows[3]["verdict"] == "undecided" and rows[3]["safe/measured"] == pytest.approx(0.6)


@pytest.fixture
def id_of(run, monkeypatch):
    """Start the run, with further flags, and return the id that a tracker is opened with."""
    ids, installed = [], types.ModuleType("wandb")
    installed.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", installed)
    opened = tracking.OPTIONAL["wandb"]._replace(open=lambda module, job: ids.append(job.id) or Tracker())
    monkeypatch.setitem(tracking.OPTIONAL, "wandb", opened)

    def id_of(*flags: str) -> str:
        given = ("--config", "run.yaml", "--metrics", "[jsonl, wandb]", *flags)
        with tracked(Run(parse_run(given)[0])):
            return ids[-1]

    return id_of


def test_a_run_keeps_an_id_that_its_path_does_not_tell(run, id_of):
    """Two machines may have the same path; a later start goes on in the same log."""
    first = id_of()
    assert len(first) == 16
    for flags in ((), ("--sample.slots", "3"), ("--export", "[merged]"), ("--mesh.fsdp", "1")):
        assert id_of(*flags) == first, flags
    (run.folder / tracking.ID).unlink()
    assert id_of() != first


@pytest.mark.parametrize("flags", [("--dual.beta", "0.5"), ("--prompts.train", "b.jsonl")])
def test_another_configuration_is_another_run_to_trackers(id_of, flags):
    """MLflow said dual.beta 0.1 of a training with 0.5, and had both at the same steps."""
    first = id_of()
    assert id_of(*flags) == id_of(*flags) != first


def test_a_copied_folder_is_another_run_to_trackers(run, id_of):
    """The copy that the docs advise once replaced the verdict of the run that it was copied from."""
    first = id_of()
    shutil.copytree(run.folder, run.folder.parent / "sum")
    assert id_of("--name", "sum") != first == id_of()


def test_an_id_that_does_not_say_of_what_is_not_gone_on_with(run, id_of):
    (run.folder / tracking.ID).write_text('{"id": "of_before"}')
    assert id_of() == id_of() != "of_before"


def test_a_package_that_is_missing_is_one_line(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, installed in (("wandb", "wandb"), ("trackio", "trackio"), ("mlflow", "mlflow-skinny")):
        given = Run(dataclasses.replace(run.config, metrics=("jsonl", name)))
        with pytest.raises(
            InputError, match=f"metrics: {name} is not installed; run: pip install {installed}$"
        ):
            check_tracking(given)


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--metrics", "[tensorboard]"), "a list that has jsonl"),
        (("--metrics", "[jsonl, comet]"), "metrics"),
        (("--on_step", "nowhere"), "on_step is 'nowhere'; write package.module:name"),
        (("--on_step", "tests.builders.toy_hook:nothing"), "on_step .* cannot be imported"),
    ],
)
def test_what_cannot_be_logged_to(run, flags, said):
    with pytest.raises(InputError, match=said):
        check_tracking(Run(parse_run(["--config", "run.yaml", *flags])[0]))


def test_a_hook_that_raises_is_one_line(run):
    name = "tests.builders.toy_hook:stop"
    (hook,) = tracking._open(Run(dataclasses.replace(run.config, metrics=("jsonl",), on_step=name)))
    with pytest.raises(InputError, match=f"on_step: {name}, called .* raised RuntimeError: align") as error:
        hook.step("align", 3, {"loss": 9.0})
    assert "toy_hook.py, line " in str(error.value)


def test_a_service_that_fails_is_said_once_and_stops_no_run(capsys):
    class Failing(Tracker):
        def step(self, stage, step, values):
            raise ConnectionError("no route")

    tracker = Unfailing("wandb", Failing())
    for step in range(3):
        tracker.step("align", step, {})
    tracker.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "metrics: wandb failed, and is told nothing more (ConnectionError: no route)"

"""What a step tells, the schedule, and the file of numbers."""

import contextlib
import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event

from cann_jax.config.training import OptimizerConfig
from cann_jax.files.errors import InputError, ResourceError
from cann_jax.files.hashes import fingerprint_json
from cann_jax.training.metrics import Metrics
from cann_jax.training.optimizer import schedule
from cann_jax.training.preference_objective import PreferenceBatch, PreferenceObjective
from cann_jax.training.trackers.base import trackers
from cann_jax.training.trackers.tensorboard import TensorBoard


def test_measures_by_hand():
    """Two prompts, two responses each; the first pair was learnt, the second unlearnt."""
    batch = PreferenceBatch(
        prompts=jnp.zeros((2, 1), int),
        prompt_lengths=jnp.ones(2, int),
        responses=jnp.zeros((2, 2, 4), int),
        response_lengths=jnp.array([[2, 4], [1, 4]]),
        reference_logps=jnp.array([[-4.0, -8.0], [-3.0, -6.0]]),
        labels=jnp.array([[[0.5, 0.9], [0.1, 0.5]], [[0.5, 0.2], [0.8, 0.5]]]),
        rewards=jnp.zeros((2, 2)),
    )
    # Ratios: 1 and -1 (first preferred, margin +2); 12 and 0 (second preferred, margin -12).
    logps = batch.reference_logps + jnp.array([[1.0, -1.0], [12.0, 0.0]])
    objective = PreferenceObjective(None, None, None, 1, loss="dpo", beta=0.5, chunks=1)
    measured = {name: float(value) for name, value in objective.measures(logps, batch).items()}
    assert measured["accuracy"] == 0.5
    assert measured["margin_mean"] == pytest.approx((1 - 6) / 2)
    assert measured["margin_p10"] == pytest.approx(-6 + 0.7) and measured["margin_p90"] == pytest.approx(
        1 - 0.7
    )
    assert measured["saturated"] == 0.5
    assert measured["logp_better"] == pytest.approx((-3 - 6) / 2)
    assert measured["logp_worse"] == pytest.approx((-9 + 9) / 2)
    assert measured["logp_better_per_token"] == pytest.approx((-1.5 - 1.5) / 2)
    assert measured["log_ratio"] == pytest.approx(3) and measured["response_tokens"] == pytest.approx(11 / 4)


def test_schedule():
    rate = schedule(OptimizerConfig(learning_rate=2.0, warmup_steps=4, final_fraction=0.25), 12)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 4)], [0, 0.5, 1, 2])
    np.testing.assert_allclose([rate(8), rate(12)], [1.25, 0.5], rtol=1e-6)


@pytest.mark.parametrize("steps, warmup", [(6, 0), (30, 3), (5000, 100)])
def test_warmup_by_default_is_short_where_the_training_is(steps, warmup):
    rate = schedule(OptimizerConfig(learning_rate=2.0), steps)
    highest = max(range(min(steps, 200)), key=lambda step: float(rate(step)))
    assert (highest, float(rate(highest))) == (warmup, 2.0)


@pytest.mark.parametrize("steps", [4, 3])
def test_warmup_no_shorter_than_the_run(steps):
    with pytest.raises(InputError, match=f"warmup_steps is 4 and this training has {steps} steps; use fewer"):
        schedule(OptimizerConfig(warmup_steps=4), steps)


def test_metrics_file_after_a_kill(tmp_path):
    """A resumed run drops what lies behind its checkpoint, and a line cut off in the middle."""
    folder = epath.Path(tmp_path)
    with Metrics(folder, 0, "align") as metrics:
        for step in range(4):
            metrics.write(step, {"loss": step / 2, "margin": float("nan")})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with Metrics(folder, 2, "align") as metrics:
        metrics.write(2, {"loss": 9.0})
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0.0), (1, 0.5), (2, 9.0)]
    assert rows[0]["margin"] is None


def test_numbers_are_written_as_people_write_them(tmp_path):
    with Metrics(epath.Path(tmp_path), 0, "align") as metrics:
        metrics.write(0, {"learning_rate": float(np.float32(3e-4)), "tokens": 2.0**24 + 1})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 0, "learning_rate": 0.0003, "tokens": 16777217.0}\n'


@pytest.mark.parametrize(
    "old, new, lost", [("0.5", "0.7", 0), ('"step": 1', '"step": 0', 1), ("{", "[", 2), ("loss", "\udcff", 1)]
)
def test_rows_that_are_not_as_they_were_written_are_told(tmp_path, old, new, lost, capsys):
    folder, path = epath.Path(tmp_path), tmp_path / "metrics.jsonl"
    with Metrics(folder, 0, "align") as metrics:
        for step in range(2):
            metrics.write(step, {"loss": step / 2})
        digest = fingerprint_json(metrics.rows)
    with Metrics(folder, 2, "align", digest=digest):
        assert not capsys.readouterr().out
    text = path.read_text()
    changes = -1 if lost == 2 else 1
    path.write_bytes(text.replace(old, new, changes).encode(errors="surrogateescape"))
    with Metrics(folder, 2, "align", digest=digest) as metrics:
        assert len(metrics.rows) == 2 - lost
    assert f"damaged: of 2 steps, the rows of {lost} are lost" in capsys.readouterr().out


def events(folder) -> list[Event]:
    """Return the events of a folder, TFRecords: a length of 8 bytes, 4 of checksum, data, 4 of checksum."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


@pytest.fixture
def board(tmp_path):
    """TensorBoard in use, by a run in a folder of its own."""
    token = trackers.set((TensorBoard(epath.Path(tmp_path / "run")),))
    yield
    trackers.reset(token)


def test_tensorboard_events(tmp_path, board):
    with Metrics(epath.Path(tmp_path), 3, "align") as metrics:
        metrics.write(3, {"loss": 0.5, "margin_mean": math.nan})
    version, start, row = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, 1)  # START: later steps of a cut run are forgotten
    assert row.step == 3 and [(each.tag, each.simple_value) for each in row.summary.value] == [
        ("align/loss", 0.5)
    ]


@pytest.mark.disk("12k")
def test_a_disk_that_fills_up_while_training(small_disk, board):
    """tensorboardX's own writer thread died then, and the training waited for it for ever."""
    with pytest.raises(ResourceError, match="disk full while writing"), contextlib.ExitStack() as stack:
        metrics = stack.enter_context(Metrics(epath.Path(small_disk), 0, "align"))
        for step in range(200):
            metrics.write(step, {"loss": 1.0, "accuracy": 0.5})

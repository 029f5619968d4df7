"""The speed that a training reports: its clock, its share of a known peak, and the line for people."""

import time

import jax
import pytest
from etils import epath

from cann_jax.runtime import devices as known_devices
from cann_jax.training import speed
from cann_jax.training.loop import LAG, Behind, Pace
from cann_jax.training.metrics import Metrics
from cann_jax.training.speed import Speed, speed_line


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass before each reading."""
    passing = iter([0.0, 2.0, 5.0, 4.0, 8.0])
    now = [0.0]

    def read():
        now[0] += next(passing)
        return now[0]

    monkeypatch.setattr(time, "monotonic", read)


def rows(values):
    return [{name: None if x != x else x for name, x in row.items()} for row in values]


def test_rate_by_hand(clock, monkeypatch):
    devices = jax.device_count()
    monkeypatch.setitem(known_devices.DEVICES, jax.devices()[0].device_kind, known_devices.Device(1e3, 1e9))
    watch = Speed(flops=20.0)
    first, second, third = (watch.of_step(100.0 * devices) for _ in range(3))
    watch.pause()  # a check of 4 s, then the next step
    fourth, fifth = (watch.of_step(100.0 * devices) for _ in range(2))
    rates = [row["tokens_per_second"] for row in (first, second, third, fourth, fifth)]
    assert rates[0] != rates[0] and rates[3] != rates[3]  # NaN: it compiled; it followed the check
    assert (rates[1], rates[2], rates[4]) == (50.0, 20.0, 12.5)
    assert second["mfu"] == pytest.approx(50 * 20 / 1e3)
    kind = jax.devices()[0].device_kind
    line = speed_line(rows([first, second, third, fourth, fifth]))
    assert line == f"20 tokens/s a device ({devices} × {kind}), 40% of its peak (MFU)"


def test_unknown_peak_and_nothing_timed():
    assert jax.devices()[0].device_kind not in known_devices.DEVICES
    watch = speed.Speed(flops=20.0)
    watch.of_step(1.0)
    row = watch.of_step(1.0)
    assert row["tokens_per_second"] > 0 and row["mfu"] != row["mfu"]
    assert "MFU" not in speed_line(rows([row])) and speed_line([]) is None


def test_rows_of_a_training_hold_it(tmp_path):
    """The host reads step n after dispatching step n + 2; what it reads in one go has no time of its own."""
    folder = epath.Path(tmp_path)
    pace = Pace("align", "learning_rate", steps=8, checkpoint_every=8, keep_checkpoints=1, flops=1.0)
    with Metrics(folder, 0, "align") as metrics:
        behind = Behind(pace, metrics, checkpoints=None)
        for step in range(8):
            behind.add(step, {"loss": 1.0, "gradient_norm": 1.0, "tokens": 10.0})
            assert len(metrics.rows) == max(step + 1 - LAG, 0)
        behind.catch_up({"heldout_loss": 0.5})
    timed = [row["tokens_per_second"] is not None for row in metrics.rows]
    assert timed == [False, *[True] * 5, False, False]
    assert ["heldout_loss" in row for row in metrics.rows] == [*[False] * 7, True]

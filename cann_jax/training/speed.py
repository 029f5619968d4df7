"""How fast a training runs: tokens per second and device, and the share of the devices' peak."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cann_jax.runtime.devices import DEVICES


class Speed:
    """Speed of consecutive steps, on the host's clock.

    Args:
        flops: Model operations a token (``models/flops.py``).
    """

    def __init__(self, flops: float):
        self.flops, self.devices = flops, jax.device_count()
        known = DEVICES.get(jax.devices()[0].device_kind)
        self.peak = math.nan if known is None else known.flops
        self.since = math.nan

    def of_step(self, tokens: float) -> dict[str, float]:
        """Return the speed of a step that has just ended; NaN for the first one, which compiles."""
        now = time.monotonic()
        rate = tokens / (now - self.since) / self.devices
        self.since = now
        return {"tokens_per_second": rate, "mfu": rate * self.flops / self.peak}

    def pause(self) -> None:
        """Leave out the time until the next step has ended: checks and checkpoints are no part of a step."""
        self.since = math.nan


def speed_line(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the median speed of the steps of ``metrics.jsonl`` in words; None where none is known."""
    rates, shares = (
        [row[name] for row in rows if row.get(name) is not None] for name in ("tokens_per_second", "mfu")
    )
    if not rates:
        return None
    device = jax.devices()[0].device_kind
    share = f", {np.median(shares):.0%} of its peak (MFU)" if shares else ""
    return f"{np.median(rates):,.0f} tokens/s a device ({jax.device_count()} × {device}){share}"

"""Signs that a training goes wrong, found in its metrics while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from etils import epath
from scipy.special import stdtrit

from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.hashes import shortest
from cann_jax.training.heldout import Heldout

HEALTH = "health.json"
WINDOW = 20  # steps, or those between two checkpoints if they are more
FEWEST = 10  # steps that can be called constant
CONFIDENCE = 0.975  # one-sided, of what is said of prompts kept from training
LEAST_SLOPE, MOST_SLOPE = 0.5, 2.0
CLIPPED, CONSTANTLY = 2.0, 0.9  # times clip_norm, in this share of the window
SATURATED = 0.5  # share of pairs

Row = Mapping[str, Any]  # a step of metrics.jsonl


@dataclass(frozen=True)
class Sign:
    """A sign of trouble.

    Args:
        kind: ``heldout_loss``, ``slope``, ``short``, ``gradient_norm`` or ``saturated``.
        first: Steps that the training had taken when it was first seen.
        last: Steps when it was last seen.
        text: One line that names the setting to change.
    """

    kind: str
    first: int
    last: int
    text: str

    @property
    def when(self) -> str:
        """When it was seen, in words."""
        last = "" if self.last == self.first else f" and last after step {self.last}"
        return f"after step {self.first}{last}"


@dataclass(frozen=True)
class Health:
    """What ``health.json`` holds.

    Args:
        steps: Steps of the training.
        kept_step: Steps after which the weights were kept; None while it runs.
        heldout_prompts: Prompts kept from training; several pairs may share one.
        start_loss: Their loss before the first step; None if there are none.
        checks: What was measured on them, and after how many steps (``step``).
        warnings: What was wrong.
    """

    steps: int
    kept_step: int | None
    heldout_prompts: int
    start_loss: float | None
    checks: list[dict[str, Any]]
    warnings: list[Sign]


def read_health(folder: epath.Path) -> Health:
    """Read ``health.json`` in the folder of a training."""
    found = read_json(folder / HEALTH)
    return Health(**found | {"warnings": [Sign(**sign) for sign in found["warnings"]]})


@dataclass(frozen=True)
class Watch:
    """What watches a training.

    Args:
        key: Section of the configuration, for messages.
        steps: Steps of the training.
        every: Steps between two checkpoints, and between two checks.
        clip_norm: The gradient's norm is clipped to this.
        heldout: The prompts kept from training; None if there are none.
        start: (H,) their losses before the first step.
        early_stop: Whether the checkpoint with the least held-out loss is kept.
    """

    key: str
    steps: int
    every: int
    clip_norm: float
    heldout: Heldout | None
    start: np.ndarray
    early_stop: bool

    def is_due(self, steps: int) -> bool:
        """Return whether there is a check after so many steps."""
        return steps % self.every == 0 or steps == self.steps

    def measures(self, weights: Any) -> dict[str, float]:
        """Return what the weights do on the prompts kept from training."""
        if self.heldout is None:
            return {}
        return self.heldout.measures(self.heldout.logps(weights), self.start)

    def signs(self, rows: Sequence[Row]) -> list[Sign]:
        """Return what was wrong at the checks of these steps, the first ones first."""
        found: dict[str, Sign] = {}
        for index, row in enumerate(rows):
            count = row["step"] + 1
            if not self.is_due(count):
                continue
            window = rows[max(index + 1 - max(WINDOW, self.every), 0) : index + 1]
            for kind, text in self._signs(window).items():
                before = found.get(kind, Sign(kind, count, count, text))
                found[kind] = replace(before, last=count)
        return list(found.values())

    def report(self, folder: epath.Path, rows: Sequence[Row], kept: int | None = None) -> None:
        """Print the warnings that are new after the last of these steps, and write ``health.json``.

        ``kept`` is the number of steps after which the weights are kept, at the end.
        """
        signs = self.signs(rows)
        for sign in signs if kept is None else ():
            if sign.first == rows[-1]["step"] + 1:
                print(f"{self.key}: warning after step {sign.first}: {sign.text}", flush=True)
        checks = [_check(row) for row in rows if row.get("heldout_loss") is not None]
        start = shortest(np.mean(self.start)) if len(self.start) else None
        write_json(folder / HEALTH, Health(self.steps, kept, self._prompts(), start, checks, signs))

    def _prompts(self) -> int:
        return 0 if self.heldout is None else len(np.unique(self.heldout.prompts))

    def _signs(self, window: Sequence[Row]) -> dict[str, str]:
        """Return what is wrong after the last of these steps, by kind."""
        rate = f"{self.key}.optimizer.learning_rate"
        found = {} if self.heldout is None else self._heldout_signs(window[-1], rate)
        norms = _values(window, "gradient_norm")
        share = float(np.mean(norms > CLIPPED * self.clip_norm)) if len(norms) else 0.0
        clip = f"{self.key}.optimizer.clip_norm"
        if len(norms) >= FEWEST and share >= CONSTANTLY:
            found["gradient_norm"] = (
                f"the gradient's norm was above {CLIPPED:g} × {clip} ({self.clip_norm:g}) in {share:.0%} of "
                f"the last {len(norms)} steps; lower {rate} or raise {clip}"
            )
        saturated = _values(window, "saturated")
        if len(saturated) >= FEWEST and float(np.mean(saturated)) > SATURATED:
            found["saturated"] = (
                f"{np.mean(saturated):.0%} of the pairs of the last {len(saturated)} steps have margins "
                f"beyond ±4, where the gradient is almost gone; lower {rate}"
            )
        return found

    def _heldout_signs(self, row: Row, rate: str) -> dict[str, str]:
        """Return what is wrong on the prompts kept from training by more than their number may explain."""
        found, start = {}, float(np.mean(self.start))
        count = self._prompts()
        sure = float(stdtrit(count - 1, CONFIDENCE)) if count > 1 else float("nan")
        loss, error = (_number(row, f"heldout_loss{part}") for part in ("", "_error"))
        if loss - sure * error > start:
            found["heldout_loss"] = (
                f"the loss on prompts kept from training is {loss:.3f}, above its start, {start:.3f}: "
                f"on new prompts the policy is worse than it was; lower {rate}"
            )
        slope, error = (_number(row, f"heldout_slope{part}") for part in ("", "_error"))
        if slope + sure * error < LEAST_SLOPE:
            found["slope"] = (
                f"the calibration slope is {slope:.2f}, below {LEAST_SLOPE:g}: "
                f"the policy moves further than it knows; lower {rate}"
            )
        # Every training is short of its end before it.
        if row["step"] + 1 == self.steps and slope - sure * error > MOST_SLOPE:
            found["short"] = (
                f"the calibration slope is {slope:.2f}, above {MOST_SLOPE:g}: the step is short of what the "
                f"policy knows; raise {rate} or {self.key}.epochs"
            )
        return found


def _check(row: Row) -> dict[str, Any]:
    return {"step": row["step"] + 1} | {name: row[name] for name in row if name.startswith("heldout_")}


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)


def _values(rows: Sequence[Row], name: str) -> np.ndarray:
    values = (_number(row, name) for row in rows)
    return np.array([value for value in values if np.isfinite(value)])

"""Prompts that are kept from a training, and what the policy does on them while it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from cann_jax.core.log_ratios import calibration
from cann_jax.data.prompts import Prompt, distinct_prompts
from cann_jax.runtime.mesh import alone
from cann_jax.runtime.placement import fetch
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceBatch, PreferenceObjective
from cann_jax.training.step import forward

SHARE = 4  # at most one prompt in so many is kept from training


def heldout_rows(
    prompts: Sequence[Prompt], wanted: int, seed: int, among: Sequence[Prompt] | None = None
) -> np.ndarray:
    """Return the indices of those items whose prompts are kept from training, a function of the seed.

    Args:
        prompts: The prompt of each item; several pairs may share one.
        wanted: Prompts to keep from training; at most a quarter of all is.
        seed: Seed of their choice.
        among: All prompts that they are chosen from; None for ``prompts``.
    """
    every = distinct_prompts(prompts if among is None else among, seed)
    kept = {prompt.content for prompt in every[: min(wanted, len(every) // SHARE)]}
    return np.array([row for row, prompt in enumerate(prompts) if prompt.content in kept], int)


@dataclass(frozen=True)
class Heldout:
    """The measures of a policy on the prompts that are kept from its training.

    Args:
        objective: What the training minimizes.
        data: Its data; the reference's log-probs of the kept prompts are known.
        frozen: Weights that are never trained.
        scale: The log-ratios' targets are r_λ over this; None where the labels are not those of r_λ.
    """

    objective: PreferenceObjective
    data: PreferenceData
    frozen: Any
    scale: float | None

    @cached_property
    def reference(self) -> np.ndarray:
        """Log π_ref (H, K) of all responses to the kept prompts."""
        return np.asarray(self.data.reference[self.data.heldout])

    @cached_property
    def prompts(self) -> np.ndarray:
        """The number (H,) of each item's prompt, from 0: several pairs may share one."""
        every, numbers = self.data.responses.prompts.prompts, dict[Any, int]()
        found = [numbers.setdefault(every[row].content, len(numbers)) for row in self.data.heldout]
        return np.array(found, int)

    def logps(self, weights: Any) -> np.ndarray:
        """Return log π_θ (H, K) of all responses to the kept prompts, by the training's own program."""
        found = np.empty_like(self.data.reference)
        for rows, columns in self.data.other_places():
            found[rows, columns] = fetch(
                forward(self.objective, weights, self.frozen, self.data.of(rows, columns))
            )
        return np.asarray(found[self.data.heldout])

    def losses(self, logps: np.ndarray) -> np.ndarray:
        """Return the loss (H,) of each prompt, on a group of its responses as training takes them."""
        batch, outputs = self.data.heldout_group(logps)
        with alone():
            terms = np.asarray(_judged(self.objective, outputs, batch).losses, np.float64)
        by_prompt: np.ndarray = terms.reshape(len(terms), -1).sum(1)
        return by_prompt * len(terms) / self.objective.terms(batch)

    def measures(self, logps: np.ndarray, start: np.ndarray) -> dict[str, float]:
        """Return the scalars to log at a checkpoint; docs/metrics.md says what each is.

        Args:
            logps: (H, K) of the policy.
            start: (H,) the losses before the first step.
        """
        losses, ratios = self.losses(logps), logps - self.reference
        batch, outputs = self.data.heldout_group(logps)
        found = {"heldout_loss": float(np.mean(losses))}
        found["heldout_loss_error"] = standard_error(losses - start, self.prompts)
        with alone():
            found["heldout_accuracy"] = float(_judged(self.objective, outputs, batch).accuracy)
            if self.scale is not None:
                found |= _calibration(ratios, self.data.reward[self.data.heldout] / self.scale, self.prompts)
        return found


class _Judged(NamedTuple):
    losses: jax.Array
    accuracy: jax.Array


@partial(jax.jit, static_argnames="objective")
def _judged(objective: PreferenceObjective, outputs: jax.Array, batch: PreferenceBatch) -> _Judged:
    return _Judged(objective.losses(outputs, batch), objective.measures(outputs, batch)["accuracy"])


def _calibration(ratios: np.ndarray, targets: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
    found = calibration(ratios, targets.astype(np.float32))
    slope, moved = float(found.slope), float(found.deviation) > 0
    return {
        "heldout_slope": slope if moved else float("nan"),
        "heldout_slope_error": slope_error(ratios, targets, slope, prompts) if moved else float("nan"),
        "heldout_correlation": float(found.correlation) if moved else float("nan"),
        "heldout_deviation": float(found.deviation),
    }


def standard_error(values: np.ndarray, prompts: np.ndarray) -> float:
    """Return the standard error of the mean of values (n,), clustered by their prompts' numbers (n,).

    It is NaN for one prompt.
    """
    return _clustered(values - np.mean(values), prompts) / len(values)


def slope_error(ratios: np.ndarray, targets: np.ndarray, slope: float, prompts: np.ndarray) -> float:
    """Return the standard error of a calibration slope of (n, K) responses to prompts of these numbers (n,).

    It is that of a regression through the origin with residuals clustered by prompt; NaN for one prompt.
    """
    given, wanted = (x - x.mean(1, keepdims=True) for x in (ratios.astype(np.float64), targets))
    return _clustered(np.sum(given * (wanted - slope * given), axis=1), prompts) / float(np.sum(given**2))


def _clustered(scores: np.ndarray, prompts: np.ndarray) -> float:
    """Return the standard error of a sum of scores (n,), independent where their prompts differ."""
    sums = np.bincount(prompts, scores)
    count = len(sums)
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2))) if count > 1 else float("nan")

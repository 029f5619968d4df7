"""The dial: an adapter for each score, added with coefficients that follow from λ.

The adapter of a score f learns the log-ratios f/u, whose unit u makes them a nat wide within a prompt: f/β by
itself may be too little to learn, or too much. The policy of λ, with log-ratios (w·r + ⟨λ, g⟩)/β, is then the
sum of the adapters with the coefficients w·u_r/β and λ_j·u_j/β.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cann_jax.core.scores import Scores
from cann_jax.core.table import standardise
from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.soup import portion, soup
from cann_jax.run.outputs import REWARD, expert_folder, read_coefficients, read_dual, read_weights
from cann_jax.run.run import Run


@dataclass(frozen=True)
class Units:
    """What the adapters' log-ratios are measured in.

    Args:
        units: u of each score, the reward first: its deviation within a prompt.
        beta: What r_λ is divided by in log-ratios.
    """

    units: Mapping[str, float]
    beta: float

    def coefficients(self, weights: Mapping[str, float]) -> np.ndarray:
        """Return the coefficients (m + 1,) of r_λ, by the weights of all scores in it."""
        return np.array([weights[name] * unit / self.beta for name, unit in self.units.items()])

    def multipliers(self, coefficients: np.ndarray) -> dict[str, float]:
        """Return λ by constraint, of the policy with these coefficients at scale 1."""
        found = zip(self.units.items(), coefficients, strict=True)
        return {name: float(c * self.beta / unit) for (name, unit), c in found if name != REWARD}


def units_of(names: tuple[str, ...], scores: Scores, beta: float) -> Units:
    """Return the units of scores as the adapters learn them.

    Raises:
        InputError: A score is the same for all responses to every prompt, so that there is nothing to learn.
    """
    every = np.concatenate([np.asarray(scores.reward)[..., None], np.asarray(scores.constraints)], axis=-1)
    for name, values in zip(names, np.moveaxis(every, -1, 0), strict=True):
        if not np.ptp(values, axis=1).any():
            raise InputError(
                f"align.dial: by align.labels the score {name} never differs between the responses to a "
                "prompt, so that no adapter can learn it; set align.labels to scores, or align.dial to false"
            )
    spreads = standardise(scores).spreads
    values = [spreads.reward, *spreads.constraints]
    return Units({name: float(value) for name, value in zip(names, values, strict=True)}, beta)


def write_units(run: Run, units: Units) -> None:
    """Write the units."""
    write_json(run.folder / "experts" / "units.json", asdict(units))


def read_units(run: Run) -> Units:
    """Read the units, in the configuration's order."""
    found = read_json(run.folder / "experts" / "units.json")
    return Units({name: found["units"][name] for name in run.config.experts()}, found["beta"])


def dual_coefficients(run: Run, units: Units) -> np.ndarray:
    """Return the coefficients (m + 1,) of the dual's λ."""
    dual = read_dual(run)
    return units.coefficients({REWARD: dual.reward_weight} | dual.multipliers)


def expert_weights(run: Run, reference: Any) -> list[Any]:
    """Read the adapter of each score; in ``reference`` there are as many side by side, untrained."""
    assert run.config.align.lora is not None, "a soup and a dial are of adapters"
    like = portion(reference, run.config.align.lora.rank)
    return [read_weights(run, expert_folder(name), like) for name in run.config.experts()]


def dialled_weights(run: Run, reference: Any) -> Any:
    """Read the adapters, and return their sum as the dial is set."""
    return soup(expert_weights(run, reference), read_coefficients(run))

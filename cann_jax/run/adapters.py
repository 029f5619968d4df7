"""The policies that a run's trained adapters make: one adapter scaled, or a dial's added."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cann_jax.core.log_ratios import calibration
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.scale import is_zero
from cann_jax.models.adapters.soup import soup
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.mixture import mixed_logps
from cann_jax.run.dial import Units, dual_coefficients, expert_weights, read_units
from cann_jax.run.outputs import read_weights
from cann_jax.run.run import Run
from cann_jax.run.training import Model, split_decoder


@dataclass(frozen=True)
class Policies:
    """Sums of adapters, one alone where there is no dial.

    Args:
        run: The run.
        model: The reference, with room for all adapters.
        adapters: Weights of each.
        start: (n,), the coefficients to begin with: 1, or those of the dual's λ.
        units: Of the dial; None where there is none.
    """

    run: Run
    model: Model
    adapters: list[Any]
    start: np.ndarray
    units: Units | None

    def weights(self, coefficients: np.ndarray) -> Any:
        """Return the weights of the sum with these coefficients (n,)."""
        return soup(self.adapters, coefficients.tolist())

    def policy(self, coefficients: np.ndarray) -> LanguageModel:
        """Return the policy with these coefficients (n,)."""
        return LanguageModel.of(self.model.decoder(self.weights(coefficients)), self.run.files)

    def log_ratios(self, responses: Responses) -> np.ndarray:
        """Return ℓ = log π_i/π_ref (N, K, n) of the reference's responses, of each adapter by itself."""
        return np.stack([log_ratios(each, responses) for each in self._alone()], axis=-1)

    def linearity(self, coefficients: np.ndarray, alone: np.ndarray, responses: Responses) -> dict[str, Any]:
        """Return how ℓ of the added weights compares with what adding log-probs gives.

        All are of the reference's responses; ``alone`` are those of each adapter by itself. Slope,
        correlation and deviation: of ``log_ratios``, against Σ c_i·ℓ_i of whole responses, and of
        ``log_probs``, against log π_ref + Σ c_i (log π_i − log π_ref) normalised at every token; the latter
        is None where the model's logits are capped. Where slope and correlation are 1, added weights do what
        added log-probs would.
        """
        added = log_ratios(self.policy(coefficients), responses)
        found: dict[str, Any] = {"log_ratios": _compared(alone @ coefficients, added), "log_probs": None}
        if self.run.files.config.final_softcap is None:
            arrays = (responses.prompts.ids, responses.tokens, responses.lengths)
            mixed = mixed_logps(self.run.reference, self._alone(), coefficients.tolist(), *arrays)
            found["log_probs"] = _compared(mixed - responses.logps, added)
        return found

    def _alone(self) -> list[LanguageModel]:
        return [self.policy(row) for row in np.eye(len(self.start))]


def read_policies(run: Run) -> Policies:
    """Read the adapters.

    Raises:
        InputError: One is zero, so that no scale of it changes anything.
    """
    config, model = run.config, split_decoder(run, run.config.policy_lora)
    if config.align.dial:
        adapters, units = expert_weights(run, model.reference), read_units(run)
        names, start = [f" on {name}" for name in config.experts()], dual_coefficients(run, units)
    else:
        adapters, units = [read_weights(run, "align", model.reference)], None
        names, start = [""], np.ones(1)
    for name, weights in zip(names, adapters, strict=True):
        if is_zero(weights):
            raise InputError(
                f"the adapter that was trained{name} is zero, so no scale of it changes the model; raise "
                "align.optimizer.learning_rate or align.epochs, and check that the scores vary within a "
                "prompt"
            )
    return Policies(run, model, adapters, start, units)


def log_ratios(policy: LanguageModel, responses: Responses) -> np.ndarray:
    """Return ℓ = log π/π_ref (N, K) of a policy on responses of the reference, nats."""
    logps = policy.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    return np.asarray(logps - responses.logps)


def _compared(told: np.ndarray, added: np.ndarray) -> dict[str, float]:
    found = calibration(told, added)
    return {name: float(value) for name, value in found._asdict().items()}

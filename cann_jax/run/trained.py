"""What a run's policy was trained on, in words, and whether λ and the dual's forecast speak of it."""

import numpy as np

from cann_jax.config.run import RunConfig
from cann_jax.files.numbers import counted
from cann_jax.run.outputs import (
    DualAnswer,
    read_dual,
    read_final_scale,
    read_multipliers,
    read_rounds,
    read_scale,
)
from cann_jax.run.results import NO_STEP, UNTRAINED
from cann_jax.run.run import Run


def reads_multipliers(config: RunConfig) -> bool:
    """Return whether λ has a part in the policy: none in what people's labels train, or in the reference."""
    if not config.trains:
        return config.evaluate.policy == "resample"
    return config.align.supervision.label is None


def is_foretold(run: Run, dual: DualAnswer) -> bool:
    """Return whether the policy is that of r_λ, with the dual's λ, of which alone the dual's forecast tells.

    Scaled or not, and of a sequence or an unmoved dial too: the log-ratios of their parts add up to r_λ/β.
    """
    align = run.config.align
    step = run.config.trains and align.learns_pseudo_reward and not read_rounds(run)
    if not step or align.combination == "soup":
        return False
    return bool(np.allclose(read_multipliers(run), dual.ordered(run.config), rtol=1e-5, atol=0))


def trained_words(run: Run) -> str:
    """Return what the policy was trained on, and how far, as a part of a sentence."""
    config = run.config
    if not config.trains:
        return UNTRAINED[config.evaluate.policy]
    rounds = len(read_rounds(run))
    parts = [_step(config, read_dual(run).reward_weight)]
    if config.calibrated:
        parts.append(f", scaled by {read_scale(run):.3f}")
        parts += [", which leaves the reference"] * (rounds > 0 and read_scale(run) == 0)
    if read_final_scale(run) == 0:
        parts.append(f": {NO_STEP}")
    if rounds:
        parts.append(
            f"; then {counted(rounds, 'round')} of training on the policy's own samples, "
            "λ moved in each by what was missing"
        )
    return "".join(parts)


def _step(config: RunConfig, weight: float) -> str:
    align = config.align
    if align.dial:
        return "an adapter for each score, added as λ says (a dial)"
    if align.combination == "soup":
        return f"an adapter for each score, averaged with the weights {weight:g} and λ (a soup)"
    if align.combination == "sequence":
        return "one preference step on r and then one on ⟨λ, g⟩ from there (SACPO)"
    label = align.supervision.label
    reward = {0.0: "⟨λ, g⟩", 1.0: "r + ⟨λ, g⟩"}.get(weight, f"{weight:g}·r + ⟨λ, g⟩")
    what = f"with the reward {reward}" if label is None else f"on people's labels of what is {label}"
    if align.safety_offset is None:
        return f"one preference step {what}"
    return (
        f"one preference step {what}, with a safe response preferred to an unsafe one by the offset "
        f"{align.safety_offset:g} (SafeDPO)"
    )

"""The one unconstrained alignment, on pairs labelled by r + ⟨λ*, g⟩ or, for the baselines, by people.

Two more baselines take the scores apart: the second step of SACPO, and soups.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cann_jax.core.preference import pseudo_reward
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.soup import soup
from cann_jax.run.dial import expert_weights
from cann_jax.run.outputs import (
    REWARD,
    expert_folder,
    read_dual,
    read_labelling_scores,
    read_pair_rewards,
    read_pairs,
    read_safe,
    read_samples,
    read_weights,
    write_weights,
)
from cann_jax.run.run import Run
from cann_jax.run.training import (
    Model,
    Training,
    alignment,
    human_preferences,
    preference_data,
    split_decoder,
    train,
)
from cann_jax.training.preference_data import PreferenceData


def run(run: Run) -> None:
    """Train the policy on pairs and write its weights.

    Files: ``weights`` (what was trained, Orbax), ``metrics.jsonl`` and ``health.json`` (how it went on
    prompts kept from training, and warnings).

    Raises:
        InputError: A loss that is not finite (the last good checkpoint stays), settings that do not fit, or
            nothing to learn for a step that is to be scaled.
    """
    folder, model = run.folder / "align", split_decoder(run, run.config.policy_lora)
    is_soup = run.config.align.combination == "soup"
    write_weights(run, "align", _soup(run, model) if is_soup else _step(run, model, folder))


def _soup(run: Run, model: Model) -> Any:
    """Average the policies that were trained on a score each, with its weight in r_λ over the sum of all."""
    config, dual = run.config, read_dual(run)
    weights = {REWARD: dual.reward_weight} | dual.multipliers
    shares = {name: weights[name] / sum(weights.values()) for name in config.experts()}
    print("align: a soup of " + ", ".join(f"{share:.3f} {name}" for name, share in shares.items()))
    return soup(expert_weights(run, model.reference), list(shares.values()))


def _step(run: Run, model: Model, folder: epath.Path) -> Any:
    """Train on pairs, or groups, from the reference; or from the policy of r, as the reference."""
    training = alignment(run.config)
    data = _data(run, training)
    data.show_pairs()
    if run.config.align.combination == "sum":
        _check_preferences(run, data)
        return train(run, training, model, data, folder)
    start = read_weights(run, expert_folder(REWARD), model.reference)
    # Copied: the first step donates what it is given, and this policy stays the reference.
    return train(run, training, model._replace(reference=start), data, folder, jax.tree.map(jnp.copy, start))


def _check_preferences(run: Run, data: PreferenceData) -> None:
    """Raise InputError where a step that will stay zero is to be scaled; else only say that it will."""
    if data.prefers:
        return
    problem = "align: r_λ is the same for all responses to a prompt, so that nothing is learnt"
    if not run.config.calibrated:
        print(problem, flush=True)
        return
    advice = "λ is 0, or scores do not vary; set prompts.calibration to null, or check the scorers"
    if run.config.align.labels == "denoised":
        advice = "features tell nothing of what it weighs; set align.labels to scores, or use more prompts"
    raise InputError(f"{problem}, and no scale changes that: {advice}")


def _data(run: Run, training: Training) -> PreferenceData:
    """Read what is trained on; nothing else differs between the kinds of supervision."""
    supervision = training.supervision
    if supervision.label is not None:
        return human_preferences(run, training)
    if not supervision.from_samples:
        (reward, scores), pairs = read_pair_rewards(run), read_pairs(run, "train")
        return preference_data(training, pairs.responses, reward, dict(scores), safe=pairs.safe)
    found, dual = read_labelling_scores(run), read_dual(run)
    weight = 0.0 if run.config.align.combination == "sequence" else dual.reward_weight
    reward = np.asarray(pseudo_reward(found, dual.ordered(run.config), weight))
    constraints = np.asarray(found.constraints)
    scores = {REWARD: np.asarray(found.reward)}
    scores |= {name: constraints[..., index] for index, name in enumerate(run.config.constraints)}
    safe = None if training.safety_offset is None else read_safe(run)
    return preference_data(training, read_samples(run), reward, scores, safe=safe)

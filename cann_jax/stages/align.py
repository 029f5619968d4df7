"""The one unconstrained alignment, on pairs labelled by r + ⟨λ*, g⟩ or, for the baselines, by people."""

import numpy as np

from cann_jax.core.preference import pseudo_reward
from cann_jax.run.outputs import (
    REWARD,
    read_dual,
    read_pair_rewards,
    read_pairs,
    read_problem,
    read_samples,
    write_weights,
)
from cann_jax.run.run import Run
from cann_jax.run.training import (
    Training,
    alignment,
    export,
    human_preferences,
    preference_data,
    split_decoder,
    train,
)
from cann_jax.training.preference_data import PreferenceData


def run(run: Run) -> None:
    """Train the policy on pairs and write its weights.

    Files: ``weights`` (what was trained, Orbax), ``metrics.jsonl``, TensorBoard events and what
    ``align.export`` asks for: ``model`` (a Hugging Face folder, adapters merged) and ``adapter`` (PEFT); where
    a scale is still to be found, that is left to the stage ``calibrate``.

    Raises:
        InputError: A loss that is not finite (the last good checkpoint stays), or settings that do not fit.
    """
    training, folder = alignment(run.config), run.folder / "align"
    data = _data(run, training)
    data.show_pairs()
    model = split_decoder(run, training.settings.lora)
    weights = train(run, training, model, data, folder)
    write_weights(run, "align", weights)
    if not run.config.calibrated:
        export(run, model.decoder(weights), run.config.align.export, folder)


def _data(run: Run, training: Training) -> PreferenceData:
    """Read what is trained on; nothing else differs between the kinds of supervision."""
    supervision = training.supervision
    if supervision.label is not None:
        return human_preferences(run, training)
    if not supervision.from_samples:
        reward, scores = read_pair_rewards(run)
        return preference_data(training.batching, read_pairs(run, "train").responses, reward, dict(scores))
    problem = read_problem(run)
    constraints = np.asarray(problem.scores.constraints)
    scores = {REWARD: np.asarray(problem.scores.reward)}
    scores |= {name: constraints[..., index] for index, name in enumerate(run.config.constraints)}
    reward = np.asarray(pseudo_reward(problem.scores, read_dual(run).ordered(run.config)))
    return preference_data(training.batching, read_samples(run), reward, scores)

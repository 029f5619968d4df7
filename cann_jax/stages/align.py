"""The one unconstrained alignment, on pairs labelled by r + ⟨λ*, g⟩ or, for the baselines, by people."""

import numpy as np

from cann_jax.core.preference import pseudo_reward
from cann_jax.core.scores import Scores
from cann_jax.run.outputs import (
    REWARD,
    read_dual,
    read_pair_rewards,
    read_pairs,
    read_predicted,
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

    Files: ``weights`` (what was trained, Orbax), ``metrics.jsonl``, ``health.json`` (how it went on prompts
    kept from training, and warnings), TensorBoard events and what ``align.export`` asks for: ``model`` (a
    Hugging Face folder, adapters merged) and ``adapter`` (PEFT); where a scale is still to be found, that is
    left to the stage ``calibrate``.

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
        return preference_data(training, read_pairs(run, "train").responses, reward, dict(scores))
    found = _labelling_scores(run)
    reward = np.asarray(pseudo_reward(found, read_dual(run).ordered(run.config)))
    constraints = np.asarray(found.constraints)
    scores = {REWARD: np.asarray(found.reward)}
    scores |= {name: constraints[..., index] for index, name in enumerate(run.config.constraints)}
    return preference_data(training, read_samples(run), reward, scores)


def _labelling_scores(run: Run) -> Scores:
    """Read the scores that r_λ is made of: as measured, or as predicted from the reference's features."""
    if run.config.align.labels == "scores":
        return read_problem(run).scores
    print("align: labels from predicted scores, each fitted on other prompts (align.labels: denoised)")
    return Scores(*read_predicted(run))

"""A policy for each score by itself: the first step of SACPO, and the adapters of a soup."""

import hashlib

import numpy as np

from cann_jax.core.preference import pseudo_reward
from cann_jax.run.execution import run_part
from cann_jax.run.outputs import (
    REWARD,
    WEIGHTS,
    expert_folder,
    read_labelling_scores,
    read_samples,
    write_weights,
)
from cann_jax.run.run import Run
from cann_jax.run.training import alignment, preference_data, split_decoder, train
from cann_jax.training.health import HEALTH
from cann_jax.training.metrics import METRICS


def run(run: Run) -> None:
    """Train a policy on each score, as the stage ``align`` trains one on r_λ.

    Each has a folder of the score's name, with ``weights``, ``metrics.jsonl``, ``health.json`` and
    TensorBoard events. λ is none of its settings, so that another soup of the same policies costs nothing.

    Raises:
        InputError: A loss that is not finite, or settings that do not fit.
    """
    training, found = alignment(run.config), read_labelling_scores(run)
    for name in run.config.experts():
        only = np.array([float(name == each) for each in run.config.constraints], np.float32)
        reward = np.asarray(pseudo_reward(found, only, float(name == REWARD)))
        own = {"score": name, "rewards": hashlib.sha256(reward.tobytes()).hexdigest()}
        settings, part = ("model", "align", "dual", "sample", "seed"), expert_folder(name).partition("/")[2]
        writes = (f"{WEIGHTS}/*", METRICS, HEALTH)
        with run_part(run, "experts", part, settings, own, writes, known=("score", "dual")) as folder:
            if folder is None:
                continue
            data = preference_data(training, read_samples(run), reward, {name: reward})
            data.show_pairs()
            model = split_decoder(run, training.settings.lora)
            write_weights(run, expert_folder(name), train(run, training, model, data, folder))

"""A policy for each score by itself: the first step of SACPO, and the adapters of a soup or a dial."""

import hashlib

import numpy as np

from cann_jax.core.preference import pseudo_reward
from cann_jax.core.scores import Scores
from cann_jax.run.dial import units_of, write_units
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
    Those of a dial learn their scores in the units of ``units.json``.

    Raises:
        InputError: A loss that is not finite, settings that do not fit, or a dial's score that never varies.
    """
    training, found = alignment(run.config), read_labelling_scores(run)
    sizes = _sizes(run, found) if run.config.align.dial else {}
    for name in run.config.experts():
        only = np.array([float(name == each) for each in run.config.constraints], np.float32)
        size = np.float32(sizes.get(name, 1.0))
        reward = size * np.asarray(pseudo_reward(found, only, float(name == REWARD)))
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


def _sizes(run: Run, found: Scores) -> dict[str, float]:
    """Write the units of a dial; return what each score is multiplied by, so that it is learnt in its own."""
    scale = alignment(run.config).scale
    assert scale is not None, "the losses of a dial have their minimum at log-ratios r_λ/scale"
    units = units_of(run.config.experts(), found, scale)
    print("experts: a nat is " + ", ".join(f"{unit:.4g} of {name}" for name, unit in units.units.items()))
    write_units(run, units)
    return {name: scale / unit for name, unit in units.units.items()}

"""The loop around a training step: resumption, numbers, checkpoints, and a stop at what is not finite."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import optax

from cann_jax.files.errors import InputError, Preempted
from cann_jax.files.progress import track
from cann_jax.runtime.placement import fetch
from cann_jax.runtime.preemption import deferred
from cann_jax.training.checkpoints import Checkpoints
from cann_jax.training.metrics import Metrics
from cann_jax.training.step import TrainState


@dataclass(frozen=True)
class Pace:
    """How long a training runs, and how often it saves.

    Args:
        stage: Its name, for messages and TensorBoard.
        rate: Key of the learning rate in the configuration, for messages.
        steps: Steps in all.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Checkpoints kept.
    """

    stage: str
    rate: str
    steps: int
    checkpoint_every: int
    keep_checkpoints: int


def fit(
    step: Callable[[TrainState, int], tuple[TrainState, dict]], state: TrainState, pace: Pace, folder
) -> TrainState:
    """Train to the end, from the newest checkpoint in ``folder`` where there is one.

    Args:
        step: (state, number of the step) → next state and its numbers; donates the state.
        state: Before the first step.
        pace: Its length.
        folder: Where checkpoints, ``metrics.jsonl`` and TensorBoard events go.

    Raises:
        InputError: a loss that is not finite; the last good checkpoint stays.
        Preempted: SIGTERM came; the step at hand is saved.
    """
    with Checkpoints(folder / "checkpoints", pace.keep_checkpoints, pace.checkpoint_every) as checkpoints:
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first:
            print(f"{pace.stage}: resumed after step {first}", flush=True)
        with Metrics(folder, first, pace.stage, pace.checkpoint_every) as metrics, deferred() as asked:
            for number in track(range(first, pace.steps), "training", initial=first, total=pace.steps):
                state, measured = step(state, number)
                values = {name: float(value) for name, value in measured.items()}
                _check_finite(pace, (values["loss"], values["gradient_norm"]), number, checkpoints)
                metrics.write(number, values)
                stopping = asked(number)
                checkpoints.save(state, last=stopping or number + 1 == pace.steps)
                if stopping:
                    raise Preempted(f"{pace.stage}: saved after step {number + 1}; start again to go on")
        _check_finite(pace, (float(fetch(optax.tree.norm(state.weights))),), pace.steps, checkpoints)
    return state


def _check_finite(pace: Pace, values: tuple[float, ...], step: int, checkpoints: Checkpoints) -> None:
    """Look at what the weights after ``step`` steps gave.

    Raises:
        InputError: they are no good; neither is a checkpoint of them, which is deleted.
    """
    if np.isfinite(values).all():
        return
    last = checkpoints.drop(step)
    kept = "there is no checkpoint before it" if last is None else f"the checkpoint after step {last} stays"
    raise InputError(
        f"{pace.stage}: loss or weights are not finite at step {step}; {kept}; lower {pace.rate}"
    )

"""The training loop: it resumes, logs, saves, stops on SIGTERM, and fails where values are not finite."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import optax
from etils import epath

from cann_jax.files.errors import InputError, Preempted
from cann_jax.files.hashes import fingerprint_json
from cann_jax.files.progress import track
from cann_jax.runtime.placement import fetch
from cann_jax.runtime.preemption import deferred
from cann_jax.training.checkpoint_digests import CHECKPOINTS
from cann_jax.training.checkpoints import Checkpoints
from cann_jax.training.health import Watch
from cann_jax.training.metrics import Metrics
from cann_jax.training.profile import Profile
from cann_jax.training.speed import Speed, speed_line
from cann_jax.training.step import Batch, Objective, TrainState, train_step

LAG = 2  # steps between a step and the host's reading of what it measured


@dataclass(frozen=True)
class Pace:
    """How long a training runs, and how often it saves."""

    stage: str  # for messages and trackers
    rate: str  # configuration key of the learning rate, for messages
    steps: int
    checkpoint_every: int
    keep_checkpoints: int
    flops: float  # model operations a token


def fit(
    objective: Objective[Batch],
    state: TrainState,
    frozen: object,
    batch: Callable[[int], Batch],
    seed: jax.Array,
    pace: Pace,
    folder: epath.Path,
    watch: Watch | None = None,
) -> TrainState:
    """Train to the end, from the newest checkpoint in ``folder`` if there is one, and return the state.

    The ``state`` before the first step is donated. ``folder`` receives checkpoints, ``metrics.jsonl`` and,
    with a ``watch``, ``health.json``. If the watch stops early, the state is that of its best checkpoint.

    Raises:
        InputError: A loss is not finite; the last good checkpoint stays.
        Preempted: SIGTERM came; the step in progress is saved.
    """
    keep, every, best = pace.keep_checkpoints, pace.checkpoint_every, watch is not None and watch.early_stop
    with Checkpoints(folder / CHECKPOINTS, keep, every, best=best) as checkpoints:
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first:
            print(f"{pace.stage}: resumed after step {first}", flush=True)
        with (
            Metrics(
                folder, first, pace.stage, every, checkpoints.rows_of(first) if first else None
            ) as metrics,
            Profile(folder) as profile,
            deferred() as stop_after,
        ):
            behind = Behind(pace, metrics, checkpoints)
            for step in track(range(first, pace.steps), "training", initial=first, total=pace.steps):
                with profile.step(step):
                    state, measured = train_step(objective, state, frozen, batch(step), seed)
                profile.end_step(step, state)
                behind.add(step, measured)
                stopping = stop_after()
                last = stopping or step + 1 == pace.steps
                if not last and (step + 1) % every:
                    continue
                watched = watch if watch is not None and watch.is_due(step + 1) else None
                heldout = {} if watched is None else watched.measures(state.weights)
                behind.catch_up(heldout)
                if watched is not None:
                    watched.report(folder, metrics.rows)
                loss = heldout.get("heldout_loss")
                checkpoints.save(state, last=last, loss=loss, rows=fingerprint_json(metrics.rows))
                if stopping:
                    raise Preempted(f"{pace.stage}: saved after step {step + 1}; start again to continue")
            norm = fetch(jax.jit(optax.tree.norm)(state.weights))
            _check_finite(pace, (float(norm),), pace.steps, checkpoints)
            if best:
                state = _best_state(pace, state, checkpoints)
            if watch is not None:
                watch.report(folder, metrics.rows, int(state.step))
            if line := speed_line([row for row in metrics.rows if row["step"] >= first]):
                print(f"{pace.stage}: {line}", flush=True)
    return state


class Behind:
    """Writes what steps measured, ``LAG`` steps late, so that the device always has a next step to do."""

    def __init__(self, pace: Pace, metrics: Metrics, checkpoints: Checkpoints):
        self.pace, self.metrics, self.checkpoints = pace, metrics, checkpoints
        self.speed = Speed(pace.flops)
        self.waiting: deque[tuple[int, dict[str, jax.Array]]] = deque()

    def add(self, step: int, measured: dict[str, jax.Array]) -> None:
        """Take over what a step measured, and write that of the step ``LAG`` before it."""
        self.waiting.append((step, measured))
        if len(self.waiting) > LAG:
            self._write({})

    def catch_up(self, more: dict[str, float]) -> None:
        """Write all, with ``more`` of the last step."""
        while self.waiting:
            self.speed.pause()  # a device ahead of the host has ended them all: the clock knows none's time
            self._write(more if len(self.waiting) == 1 else {})
        self.speed.pause()

    def _write(self, more: dict[str, float]) -> None:
        step, measured = self.waiting.popleft()
        values = {name: float(value) for name, value in measured.items()}
        _check_finite(self.pace, (values["loss"], values["gradient_norm"]), step, self.checkpoints)
        self.metrics.write(step, values | self.speed.of_step(values["tokens"]) | more)


def _best_state(pace: Pace, state: TrainState, checkpoints: Checkpoints) -> TrainState:
    """Return the state of the best checkpoint, and say which it is."""
    step = checkpoints.best_step()
    print(f"{pace.stage}: early stop: the weights after step {step} of {pace.steps} are kept", flush=True)
    return state if step == int(state.step) else checkpoints.restore(state, step) or state


def _check_finite(pace: Pace, values: tuple[float, ...], step: int, checkpoints: Checkpoints) -> None:
    """Check values that the weights after ``step`` steps gave, and delete their checkpoint if one is not."""
    if np.isfinite(values).all():
        return
    last = checkpoints.drop(step)
    kept = "there is no checkpoint before it" if last is None else f"the checkpoint after step {last} stays"
    raise InputError(
        f"{pace.stage}: loss or weights are not finite at step {step}; {kept}; lower {pace.rate}"
    )

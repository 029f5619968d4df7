"""About how long the rest of a run takes: by what its stages took before, or by its pace so far."""

from collections.abc import Iterable, Mapping
from typing import Any

from cann_jax.config.run import RunConfig
from cann_jax.run.compute import compute_of
from cann_jax.run.run import ModelRun, Run

# A response that is trained on once, in responses sampled and scored; the quickstart's took 3.5.
TRAINED = 3.0
SHORT = ("dual", "export")  # seconds


def time_left(run: ModelRun[Any], before: Mapping[str, float], left: Iterable[str]) -> str:
    """Return in words about how long the stages ``left`` take together, as far as that is known yet.

    Args:
        run: The run.
        before: Seconds of the stages that have ended, now or in an earlier run of this folder.
        left: Names of stages.
    """
    names = list(left)
    known = {name: _seconds(run, before, name) for name in names}
    total = sum(seconds for seconds in known.values() if seconds is not None)
    unknown = [name for name in names if known[name] is None]
    if total == 0 and unknown:
        return "; time left: unknown yet"
    rest = f", and {', '.join(unknown)}" if unknown else ""
    return f"; about {_words(total)} left{rest}"


def seconds_before(run: ModelRun[Any]) -> dict[str, float]:
    """Return what each stage took that has ended in the run's folder."""
    found = {stage.name: compute_of(run.folder / stage.name) for stage in run.stages}
    return {name: cost.seconds for name, cost in found.items() if cost is not None}


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _seconds(run: ModelRun[Any], before: Mapping[str, float], name: str) -> float | None:
    """Return what a stage took before; else its number of responses by the run's pace; None without these."""
    if name in before:
        return before[name]
    if not isinstance(run, Run) or not {"sample", "score"} <= before.keys() or "train" not in run.encoded:
        return 0.0 if name in SHORT else None
    sampled = len(run.encoded["train"]) * run.config.sample.responses
    count = _responses(run, name)
    return None if count is None else count * (before["sample"] + before["score"]) / sampled


def _responses(run: Run, name: str) -> float | None:
    """Return a stage's work as a number of responses to sample and score."""
    config, sizes = run.config, {each: len(found) for each, found in run.encoded.items()}
    if name in SHORT:
        return 0.0
    if name == "align" and config.align.supervision.from_samples:
        return TRAINED * config.align.epochs * sizes["train"] * config.align.group_size
    if name == "calibrate" and "calibration" in sizes:  # the reference, and every try but the last, mostly
        return sizes["calibration"] * config.calibrate.responses * max(config.calibrate.tries, 2)
    if name == "evaluate" and "heldout" in sizes:
        return sizes["heldout"] * config.evaluate.responses * _policies(config)
    return None


def _policies(config: RunConfig) -> int:
    """Return how many responses are drawn for one that is compared, the reference's among them."""
    return 1 + (config.sample.responses if config.evaluate.policy == "resample" else 1)

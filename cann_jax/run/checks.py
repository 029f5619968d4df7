"""Checks of a run's settings against its data, made as soon as the sizes are known."""

from collections.abc import Sequence

from cann_jax.config.model import PREFERENCES
from cann_jax.config.run import RunConfig
from cann_jax.config.training import OptimizerConfig
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError, named
from cann_jax.run.execution import run_stages
from cann_jax.run.outputs import read_pairs
from cann_jax.run.pipeline import Stage
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.stages import Pipeline
from cann_jax.run.training import Training, alignment, heldout_of, prealignments
from cann_jax.training.batch_order import steps_in
from cann_jax.training.optimizer import schedule


def run_checked_stages(run: Run, stages: Pipeline, *, verify: bool = False) -> None:
    """Run stages as ``run_stages`` does, after checking settings against prompts and pairs.

    Raises:
        InputError: As ``run_stages``; a group that no prompt has; a warm-up that outlasts its training.
    """
    names, from_pairs = {stage.name for stage in stages}, run.config.prompts.train == PREFERENCES
    needs_prompts = bool(names & {"sample", "align"})
    if needs_prompts and not from_pairs:
        _check_prompts(run)

    def after(stage: Stage) -> None:
        if stage.name == "pairs":
            _check_pairs(run)
            if needs_prompts and from_pairs:
                _check_prompts(run)

    run_stages(run, stages, verify=verify, after=after)


def _check_prompts(run: Run) -> None:
    prompts, training = encoded_prompts(run, "train"), alignment(run.config)
    check_groups(run.config, prompts)
    if training.supervision.from_samples:
        _check_steps(training, prompts.prompts)


def _check_pairs(run: Run) -> None:
    pairs = read_pairs(run, "train")
    for training in (*prealignments(run.config).values(), alignment(run.config)):
        if not training.supervision.from_samples:
            label = training.supervision.label
            learnt = pairs if label is None else pairs.take(labelled(pairs, label))
            _check_steps(training, learnt.responses.prompts.prompts)


def _check_steps(training: Training, prompts: Sequence[Prompt]) -> None:
    """Check a training of items with these prompts."""
    count = len(prompts) - len(heldout_of(training, prompts))
    steps = steps_in(training.batching.epochs, count, training.batching.prompts_per_step)
    check_warmup(training.key, training.settings.optimizer, steps)


def check_groups(config: RunConfig, prompts: EncodedPrompts) -> None:
    """Raise InputError if a constraint names a group that no training prompt has."""
    groups = sorted({prompt.group for prompt in prompts.prompts if prompt.group is not None})
    for name, constraint in config.constraints.items():
        if constraint.group is not None and constraint.group not in groups:
            raise InputError(
                f"constraints.{name}.group is {constraint.group!r}, and no training prompt has it; "
                f"the groups are {', '.join(groups) or 'none'}"
            )


def check_warmup(key: str, optimizer: OptimizerConfig, steps: int) -> None:
    """Raise InputError if the warm-up is no shorter than a training of ``steps`` steps.

    Args:
        key: Section of the configuration that holds the optimizer, for messages.
        optimizer: Its settings.
        steps: Steps of the training.
    """
    with named(key):
        schedule(optimizer, steps)

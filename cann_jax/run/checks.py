"""Checks of a run's settings against its data, made as soon as the sizes are known."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from cann_jax.config.model import PREFERENCES, PromptSet
from cann_jax.config.run import RunConfig
from cann_jax.config.training import OptimizerConfig
from cann_jax.core.prediction import folds_of
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.encoded_prompts import EncodedPrompts, shared_prompts
from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError, named
from cann_jax.run.execution import refuse_stale, run_stages, upstream
from cann_jax.run.exports import check_exports
from cann_jax.run.outputs import read_pairs
from cann_jax.run.pipeline import Stage
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.stages import Pipeline
from cann_jax.run.training import Training, alignment, heldout_of, prealignments
from cann_jax.sampling.features import chosen_layers
from cann_jax.training.batch_order import steps_in
from cann_jax.training.optimizer import schedule


def check_stages(run: Run, stages: Pipeline) -> None:
    """Check settings against the model, prompts and pairs, as far as these are there before anything begins.

    Raises:
        InputError: As ``check_prompts`` and ``refuse_stale``; a layer that the model does not have; a format
            that it cannot be exported in; or a warm-up that outlasts its training.
    """
    names = {stage.name for stage in stages}
    if "sample" in names:
        chosen_layers(run.config.sample.feature_layers, run.files.config.layers)
    if "export" in names:
        check_exports(run)
    pairs, sets, early = _prompts_read(run, stages)
    if early:
        _check_sets(run, sets)
    refuse_stale(run, stages)
    if pairs and "pairs" not in names:
        _check_pairs(run, stages, sets)


def _prompts_read(run: Run, stages: Pipeline) -> tuple[bool, list[PromptSet], bool]:
    """Return whether stages read pairs, which prompts they read, and whether these are there at once.

    Prompts of the pairs are there when the stage `pairs` has ended, files before anything begins.
    """
    pairs = "pairs" in {stage.name for stage in stages} | upstream(run, stages)
    sources = run.config.prompts.sources() if any(map(_uses_prompts, stages)) else {}
    sets = [name for name, source in sources.items() if pairs or source != PREFERENCES]
    return pairs, sets, not (pairs and PREFERENCES in sources.values())


def run_checked_stages(run: Run, stages: Pipeline, *, verify: bool = False) -> None:
    """Run stages as ``run_stages`` does, and check what ``check_stages`` could not, as soon as it is there.

    Raises:
        InputError: As either.
    """
    anew = "pairs" in {stage.name for stage in stages}
    _, sets, early = _prompts_read(run, stages)
    first = next((stage for stage in stages if stage.name != "pairs"), None)

    def before(stage: Stage) -> None:
        if stage is first and anew:
            _check_pairs(run, stages, sets)
        if stage is first and not early:
            _check_sets(run, sets)

    run_stages(run, stages, verify=verify, before=before)


def _uses_prompts(stage: Stage) -> bool:
    return stage.name in ("align", "experts") or any(name.startswith("prompts.") for name in stage.files)


def _check_sets(run: Run, names: Iterable[PromptSet]) -> None:
    sets, training = {name: encoded_prompts(run, name) for name in names}, alignment(run.config)
    check_prompts(run.config, sets)
    if run.config.trains and "train" in sets and training.supervision.from_samples:
        _check_steps(training, sets["train"].prompts)


def _check_pairs(run: Run, stages: Pipeline, sets: Sequence[PromptSet]) -> None:
    """Check the trainings on pairs: their steps, where they are to run, and prompts of these ``sets``."""
    pairs, steps = read_pairs(run, "train"), bool({"prealign", "align"} & {stage.name for stage in stages})
    own = (alignment(run.config),) if run.config.trains else ()
    for training in (*prealignments(run.config).values(), *own):
        if not training.supervision.from_samples:
            label = training.supervision.label
            learnt = pairs if label is None else pairs.take(labelled(pairs, label))
            if steps:
                _check_steps(training, learnt.responses.prompts.prompts)
            _check_unseen(run, learnt.responses.prompts, sets)


def _check_unseen(run: Run, trained_on: EncodedPrompts, sets: Sequence[PromptSet]) -> None:
    """Check that prompts from files are not those of the pairs; ``run/prompts.py`` sees to the others."""
    for name in sets:
        if name == "train" or run.config.prompts.sources()[name] == PREFERENCES:
            continue
        if shared := shared_prompts(trained_on, encoded_prompts(run, name)):
            raise InputError(f"the preference pairs and prompts.{name} share {_overlap(shared)}")


def _check_steps(training: Training, prompts: Sequence[Prompt]) -> None:
    """Check a training of items with these prompts."""
    count = len(prompts) - len(heldout_of(training, prompts))
    steps = steps_in(training.batching.epochs, count, training.batching.prompts_per_step)
    check_warmup(training.key, training.settings.optimizer, steps)


def check_prompts(config: RunConfig, sets: Mapping[PromptSet, EncodedPrompts]) -> None:
    """Check the sets of a run's prompts against the constraints, the dual's folds and each other.

    Raises:
        InputError: A constraint names a group that no prompt of a set has, two sets share a prompt, or there
            are fewer training prompts than folds where predicted scores are needed.
    """
    for name, prompts in sets.items():
        _check_groups(config, name, prompts)
    if "train" in sets and config.needs_predictions:
        with named("dual.folds"):
            folds_of(len(sets["train"]), config.dual.folds, config.seed)
    for (first, here), (second, there) in combinations(sets.items(), 2):
        if shared := shared_prompts(here, there):
            raise InputError(f"prompts.{first} and prompts.{second} share {_overlap(shared)}")


def _check_groups(config: RunConfig, name: PromptSet, prompts: EncodedPrompts) -> None:
    groups = sorted({prompt.group for prompt in prompts.prompts if prompt.group is not None})
    for key, constraint in config.constraints.items():
        if constraint.group is not None and constraint.group not in groups:
            raise InputError(
                f"constraints.{key}.group is {constraint.group!r}, and no prompt of prompts.{name} has it; "
                f"their groups are {', '.join(groups) or 'none'}"
            )


def _overlap(shared: Sequence[tuple[Prompt, Prompt]]) -> str:
    here, there = shared[0]
    advice = "remove them from one of the two"
    if here.content != there.content:
        advice = "raise prompts.max_tokens, which cuts off what they differ in"
    return (
        f"{len(shared)} of their prompts, the first of them {here.id!r} and {there.id!r}, "
        f"{here.text[:60]!r}; what is measured must be used for nothing before: {advice}"
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

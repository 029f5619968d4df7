"""``train --dry_run --device``: settings that fit given devices, with their memory and a bound on time."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cann_jax_tools.chips import CHIPS, Slice, devices_named
from cann_jax_tools.sizing import (
    ROOM,
    SamplingPlan,
    Step,
    TrainingPlan,
    best_sampling,
    best_training,
    training_plans,
)

from cann_jax.dry_run.known_data import KnownData, known_data, sampling_extent, training_extent
from cann_jax.dry_run.output import shape_of_model
from cann_jax.dry_run.run import trainings
from cann_jax.files.console import console
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.run.run import Run
from cann_jax.run.training import Training
from cann_jax.sampling.mesh import Batch, in_words
from cann_jax.training.batch_order import steps_in


class _Sized(NamedTuple):
    """The key of a training in the configuration, its layout, and its number of steps if that is known."""

    key: str
    plan: TrainingPlan
    steps: int | None


def propose(run: Run, device: str, model_config: str | None, given: Sequence[str]) -> None:
    """Print settings for ``device``, and compile with them where it is a TPU slice and libtpu is at hand.

    Lengths are those of the data where these are at hand, else their limits. ``given`` is the command line.

    Raises:
        InputError: There is no such device, the data or the model are wrong, or nothing fits.
    """
    where = devices_named(device)
    shape = shape_of_model(run, model_config, console())
    data = known_data(run, opened=model_config is None)
    *others, last = trainings(run).values()
    align = _sized(run, shape, last, data, where, None)  # the mesh is one for all
    sized = [*(_sized(run, shape, each, data, where, align.plan.mesh) for each in others), align]
    sampled, sample = sampling_extent(run.config, data), run.config.sample
    most = Batch(sampled.count or 1 << 30, sample.responses, sampled.prompt, sample.max_new_tokens)
    batch = best_sampling(shape, most, align.plan.data * align.plan.fsdp, where, run.config.model.dtype)
    settings = list(_settings(sized, batch))
    for line in _lines(where, sized, settings, batch, sample.responses):
        print(line, flush=True)
    if device.partition(":")[0] in CHIPS and importlib.util.find_spec("libtpu") is not None:
        _compile(device, given, settings)


def _sized(
    run: Run,
    shape: DecoderConfig,
    training: Training,
    data: KnownData,
    where: Slice,
    mesh: tuple[int, int, int] | None,
) -> _Sized:
    """Return the best layout of a training, on ``mesh`` if it is given.

    Raises:
        InputError: None fits.
    """
    extent, batching = training_extent(run.config, training, data), training.batching
    settings, prompts = training.settings, batching.prompts_per_step
    sizes = prompts, extent.prompt, batching.group_size, extent.response
    step = Step(*sizes, settings.lora, settings.vocabulary_chunks)
    plans = [
        plan
        for plan in training_plans(shape, step, where, run.config.model.dtype)
        if mesh is None or plan.mesh == mesh
    ]
    plan = best_training(plans, where.chip.memory)
    if plan is None:
        raise InputError(f"--device {where.name}: {training.key}: {_too_large(where, plans)}")
    steps = None if extent.count is None else steps_in(batching.epochs, extent.count, prompts)
    return _Sized(training.key, plan, steps)


def _too_large(where: Slice, plans: Sequence[TrainingPlan]) -> str:
    if not plans:
        return "no mesh divides the model and the prompts of a step; make those a multiple of the devices"
    least = min(plan.bytes for plan in plans)
    return (
        f"a step needs {least / 1e9:.1f} GB a device at least, of {ROOM * where.chip.memory / 1e9:.1f} that "
        "may be planned; use more devices, adapters (lora), or shorter prompts and responses"
    )


def _settings(sized: Sequence[_Sized], batch: SamplingPlan | None) -> Iterator[list[str]]:
    """Yield the proposed settings as flags, those that belong together in one list."""
    yield [
        f"--mesh.{axis}={size}"
        for axis, size in zip(("data", "fsdp", "tensor"), sized[-1].plan.mesh, strict=True)
    ]
    for key, plan in {each.key: each.plan for each in sized}.items():
        yield [f"--{key}.accumulation={plan.accumulation}", f"--{key}.rematerialise={plan.rematerialise}"]
    if batch is not None:
        yield [f"--sample.prompts_per_batch={batch.prompts}"]


def _lines(
    where: Slice,
    sized: Sequence[_Sized],
    settings: Sequence[list[str]],
    batch: SamplingPlan | None,
    responses: int,
) -> Iterator[str]:
    memory = f"{where.chip.memory / 1e9:.0f} GB"
    count = f"{where.chips} devices" if where.chips > 1 else "one device"
    yield f"{where.name}: {count} of {memory}; what fits, estimated from sizes:"
    for flags in settings:
        yield f"  {' '.join(flags)}"
    for each in sized:
        whole = "" if each.steps is None else f"; {each.steps} steps, {_time(each.steps * each.plan.seconds)}"
        held = f"{each.plan.bytes / 1e9:.1f} of {memory} a device"
        yield f"{each.key}: {held}, a step at least {_time(each.plan.seconds)}{whole}"
    if batch is None:
        yield "sampling: no batch fits; lower sample.responses or sample.max_new_tokens"
        return
    held = f"{batch.bytes / 1e9:.1f} of {memory} a device, {in_words(batch.copies, batch.shared)}"
    yield f"sampling: {held}, {batch.prompts} × {responses} responses at least {_time(batch.seconds)}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _compile(device: str, given: Sequence[str], settings: Sequence[list[str]]) -> None:
    """Lay out the training step with these settings by the TPU compiler, in a process of its own.

    It ends before machine code, which takes minutes.
    """
    flags = iter(given)
    kept = []
    for flag in flags:
        name, equals, _ = flag.partition("=")
        if name == "--device" and not equals:
            next(flags)
        elif name not in ("--device", "--dry_run", "--verify"):
            kept.append(flag)
    print("by the TPU compiler, without machine code:", flush=True)
    own = ["--topology", device, "--programs", "training step", "--machine_code", "no"]
    command = [sys.executable, "-m", "cann_jax.compile_check", *kept, *own, *(f for s in settings for f in s)]
    subprocess.run(command, check=False)  # it says itself what is wrong

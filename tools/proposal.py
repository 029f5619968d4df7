"""``train --dry_run --device``: whether the configuration fits given devices, and settings that do.

With their memory and a bound on time.
"""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cann_jax_tools.chips import CHIPS, Slice, devices_named
from cann_jax_tools.scorer_models import scorer_lines, scoring_stages
from cann_jax_tools.sizing import (
    ROOM,
    Mesh,
    SamplingPlan,
    Step,
    TrainingPlan,
    best_sampling,
    best_training,
    sampling_plan,
    training_plan,
    training_plans,
)
from jax.sharding import AbstractMesh

from cann_jax.dry_run.known_data import KnownData, known_data, sampling_extent, training_extent
from cann_jax.dry_run.output import shape_of_model
from cann_jax.dry_run.run import trainings
from cann_jax.files.console import console
from cann_jax.files.errors import InputError
from cann_jax.files.numbers import counted
from cann_jax.models.config import DecoderConfig
from cann_jax.run.run import Run
from cann_jax.run.training import Training
from cann_jax.runtime.mesh import AXES, mesh_shape
from cann_jax.runtime.sharding import check_batches, check_model
from cann_jax.sampling.mesh import Batch, in_words
from cann_jax.training.batch_order import steps_in


class _Sized(NamedTuple):
    """The key of a training in the configuration, its layout, and its number of steps if that is known."""

    key: str
    plan: TrainingPlan
    steps: int | None


def propose(run: Run, device: str, model_config: str | None, given: Sequence[str]) -> None:
    """Print whether the configuration fits ``device``, and settings that do; compile with them if possible.

    It is where ``device`` is a TPU slice and libtpu is at hand. Lengths are those of the data where these are
    at hand, else their limits. ``given`` is the command line.

    Raises:
        InputError: There is no such device, the data or the model are wrong, or nothing fits.
    """
    where = devices_named(device)
    shape = shape_of_model(run, model_config, console())
    data = known_data(run, opened=model_config is None)
    dtype, sampled = run.config.model.dtype, sampling_extent(run.config, data)
    if dtype == "float32":
        print(_float32_line(where))
    own = _own_batch(run, sampled.prompt)
    for line in _yours(run, shape, data, where, own):
        print(line, flush=True)
    sized: list[_Sized] = []
    for training in reversed(trainings(run).values()):  # the mesh is one for all
        sized.insert(0, _sized(run, shape, training, data, where, sized[-1].plan.mesh if sized else None))
    mesh = sized[-1].plan.mesh if sized else _own_mesh(run, where)
    most = own._replace(prompts=sampled.count or 1 << 30)
    batch = best_sampling(shape, most, math.prod(mesh[:2]), where, dtype)
    settings = list(_settings(sized, batch))
    for line in _lines(where, sized, settings, batch, own.responses, sampled.count):
        print(line, flush=True)
    print(f"not counted in time: compiling, log-probs of the reference, the stages {scoring_stages(run)}")
    for line in scorer_lines(run, mesh, where.chip.memory, batch.bytes if batch is not None else 0.0):
        print(line, flush=True)
    if sized and device.partition(":")[0] in CHIPS and importlib.util.find_spec("libtpu") is not None:
        _compile(device, given, settings)


def _float32_line(where: Slice) -> str:
    share = where.chip.float32
    how = "as TF32, at half the peak of bfloat16" if share < 1 else "rounded to bfloat16, at its peak"
    return (
        f"model.dtype float32: JAX multiplies it {how}; activations and gathered weights take twice the bytes"
    )


def _own_mesh(run: Run, where: Slice) -> Mesh:
    data, fsdp, tensor = mesh_shape(run.config.mesh, where.chips)
    return data, fsdp, tensor


def _own_batch(run: Run, width: int) -> Batch:
    """Return the batch of sampling as the configuration has it, for prompts of this width."""
    sample = run.config.sample
    return Batch(sample.prompts_per_batch, sample.responses, width, sample.max_new_tokens, sample.slots)


def _yours(run: Run, shape: DecoderConfig, data: KnownData, where: Slice, batch: Batch) -> Iterator[str]:
    """Yield what the configuration needs as it was given, or the first thing that is wrong with it."""
    dtype = run.config.model.dtype
    try:
        mesh = _own_mesh(run, where)
        check_model(shape, AbstractMesh(mesh, AXES))
        check_batches(run.config.batches(), AbstractMesh(mesh, AXES))
    except InputError as error:
        yield f"yours: {error}"
        return
    for training in {each.key: each for each in trainings(run).values()}.values():
        step, own = _step(run, training, data), training.settings
        plan = training_plan(shape, step, where, dtype, mesh, own.accumulation, own.rematerialise)
        layout = f"mesh {'×'.join(map(str, mesh))}, accumulation {own.accumulation}, {own.rematerialise}"
        yield f"yours: {layout}: {training.key} needs {_needs(plan, where)}{_much(plan, where)}"
    sampled = sampling_plan(shape, batch, where, dtype)
    what = f"{batch.prompts} × {batch.responses} responses"
    if sampled is None:
        yield f"yours: sampling {what}: they do not fit beside whole copies of the weights"
    else:
        yield f"yours: sampling {what} needs {_sampling_needs(sampled, where)}"


def _much(plan: TrainingPlan, where: Slice) -> str:
    if plan.bytes <= ROOM * where.chip.memory:
        return ""
    if plan.bytes > where.chip.memory:
        return "; too much"
    return f"; more than the {ROOM * where.chip.memory / 1e9:.1f} that may be planned"


def _needs(plan: TrainingPlan, where: Slice) -> str:
    return f"{_held(plan.bytes, where)}, a step at least {_time(plan.seconds)}"


def _sampling_needs(plan: SamplingPlan, where: Slice) -> str:
    copies = in_words(plan.copies, plan.shared)
    return f"{_held(plan.bytes, where)}, {copies}, a batch at least {_time(plan.seconds)}"


def _held(number: float, where: Slice) -> str:
    return f"{number / 1e9:.1f} of {where.chip.memory / 1e9:.0f} GB a device"


def _step(run: Run, training: Training, data: KnownData) -> Step:
    """Return the sizes of a training's step."""
    extent, batching = training_extent(run.config, training, data), training.batching
    sizes = batching.prompts_per_step, extent.prompt, batching.group_size, extent.response
    return Step(*sizes, training.settings.lora, training.settings.vocabulary_chunks)


def _sized(
    run: Run,
    shape: DecoderConfig,
    training: Training,
    data: KnownData,
    where: Slice,
    mesh: Mesh | None,
) -> _Sized:
    """Return the best layout of a training, on ``mesh`` if it is given.

    Raises:
        InputError: None fits.
    """
    extent, step = training_extent(run.config, training, data), _step(run, training, data)
    plans = [
        plan
        for plan in training_plans(shape, step, where, run.config.model.dtype)
        if mesh is None or plan.mesh == mesh
    ]
    plan = best_training(plans, where.chip.memory)
    if plan is None:
        raise InputError(f"--device {where.name}: {training.key}: {_too_large(where, plans, training)}")
    steps = None if extent.count is None else steps_in(training.batching.epochs, extent.count, step.prompts)
    return _Sized(training.key, plan, steps)


def _too_large(where: Slice, plans: Sequence[TrainingPlan], training: Training) -> str:
    if not plans:
        return "no mesh divides the model and the prompts of a step; make those a multiple of the devices"
    least = min(plan.bytes for plan in plans)
    adapters = f"adapters ({training.key}.lora), " if training.settings.lora is None else ""
    return (
        f"a step needs {least / 1e9:.1f} GB a device at least, of {ROOM * where.chip.memory / 1e9:.1f} that "
        f"may be planned; use more devices, {adapters}or shorter prompts and responses"
    )


def _settings(sized: Sequence[_Sized], batch: SamplingPlan | None) -> Iterator[list[str]]:
    """Yield the proposed settings as flags, those that belong together in one list."""
    if sized:
        yield [f"--mesh.{axis}={size}" for axis, size in zip(AXES, sized[-1].plan.mesh, strict=True)]
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
    prompts: int | None,
) -> Iterator[str]:
    memory = f"{where.chip.memory / 1e9:.0f} GB"
    count = f"{where.chips} devices" if where.chips > 1 else "one device"
    yield f"{where.name}: {count} of {memory}; what fits, estimated from sizes:"
    for flags in settings:
        yield f"  {' '.join(flags)}"
    for each in sized:
        whole = ""
        if each.steps is not None:
            whole = f"; {counted(each.steps, 'step')}, {_time(each.steps * each.plan.seconds)}"
        yield f"{each.key}: {_needs(each.plan, where)}{whole}"
    if batch is None:
        yield "sampling: no batch fits; lower sample.responses or sample.max_new_tokens"
        return
    whole = ""
    if prompts is not None:
        number = -(-prompts // batch.prompts)
        whole = f"; {number} batch{'es' * (number > 1)}, {_time(number * batch.seconds)}"
    yield f"sampling {batch.prompts} × {responses} responses: {_sampling_needs(batch, where)}{whole}"


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

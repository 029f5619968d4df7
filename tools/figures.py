"""The figures of a run's programs on a TPU slice: time to compile, memory, operations, bytes and times."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from cann_jax_tools.chips import Slice
from cann_jax_tools.compiler import compiled, laid_out
from cann_jax_tools.flops import model_flops, program_flops, step_flops
from cann_jax_tools.roofline import Need, Times, utilisation

from cann_jax.config.run import RunConfig
from cann_jax.data.padding import bucket_width
from cann_jax.dry_run.programs import trace_sampling, trace_scoring, trace_training
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.run.training import alignment

PROGRAMS = ("training step", "sampling", "scoring")
STEPS, STOP_TOKENS = 1000, 1  # neither changes what is counted


def chosen_programs(text: str, machine_code: bool) -> list[str]:
    """Return the programs that ``--programs`` names.

    Raises:
        InputError: There is no such program, or more than one is to be compiled without machine code.
    """
    chosen = text.split(",")
    for name in chosen:
        if name not in PROGRAMS:
            raise InputError(f"command line: --programs: there is no {name!r}; use {', '.join(PROGRAMS)}")
    if not machine_code and len(chosen) > 1:
        raise InputError("command line: --machine_code no is for one program; add --programs 'training step'")
    return chosen


def figures_of_programs(
    config: RunConfig, shape: DecoderConfig, where: Slice, chosen: Sequence[str], dumps: str | None
) -> list[dict[str, Any]]:
    """Trace and compile programs on the current mesh, and return the figures of each.

    Args:
        config: The run's configuration.
        shape: The model's sizes.
        where: The slice that the mesh consists of.
        chosen: Some of ``PROGRAMS``.
        dumps: That of ``dumped``, to stop before machine code; None to compile to the end.
    """
    width, length = bucket_width(config.prompts.max_tokens), config.sample.max_new_tokens
    train = functools.partial(trace_training, config.model, alignment(config), shape, width, STEPS, length)
    tracers: dict[str, Callable[[], Any]] = {
        "training step": lambda: train()["training step"],
        "sampling": lambda: trace_sampling(config, shape, width, STOP_TOKENS),
        "scoring": lambda: trace_scoring(config, shape, width),
    }
    figures = [{"program": name, **_figures(tracers[name](), where, dumps)} for name in chosen]
    for each in figures:
        if each["program"] == "training step":
            model, step = model_flops(config, shape, width), step_flops(config, shape, width)
            each["mfu_bound"] = utilisation(model, each["seconds"], where)
            each["flops_over_analytic"] = each["flops"] * where.chips / step
    return figures


def _figures(traced: Any, where: Slice, dumps: str | None) -> dict[str, Any]:
    start, cpu_start = time.monotonic(), time.process_time()
    program = compiled(traced) if dumps is None else laid_out(traced, dumps)
    took = {"compile_seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu_start}
    need = Need.of(program, program_flops(traced.jaxpr.jaxpr) / where.chips)
    times = Times.of(need, where)
    figures = {"machine_code": dumps is None, **took, **asdict(need), **asdict(times)}
    return {**figures, "bound": times.bound, "seconds": times.longest}

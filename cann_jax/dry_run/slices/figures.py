"""The figures of a run's programs on a TPU slice: time to compile, memory, operations, bytes and times."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cann_jax.config.run import RunConfig
from cann_jax.data.padding import bucket_width
from cann_jax.dry_run.programs import trace_sampling, trace_scoring, trace_training
from cann_jax.dry_run.slices.chips import Slice
from cann_jax.dry_run.slices.compiler import compiled, laid_out
from cann_jax.dry_run.slices.flops import model_flops, program_flops, step_flops
from cann_jax.dry_run.slices.roofline import Need, Times, utilisation
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig

PROGRAMS = ("training step", "sampling", "scoring")
STEPS, STOP_TOKENS = 1000, 1  # neither changes what is counted
Figures = dict[str, Any]


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
) -> list[Figures]:
    """Trace and compile programs on the current mesh, and return the figures of each.

    Args:
        config: The run's configuration.
        shape: The model's sizes.
        where: The slice that the mesh consists of.
        chosen: Some of ``PROGRAMS``.
        dumps: Folder of ``keep_dumps``, to stop before machine code; None to compile to the end.
    """
    return [_figures(*each, config, shape, where, dumps) for each in _traced(config, shape, chosen)]


def _traced(config: RunConfig, shape: DecoderConfig, chosen: Sequence[str]) -> Iterator[tuple[str, Any]]:
    width = _prompt_width(config)
    tracers: dict[str, Callable[[], Any]] = {
        "training step": lambda: trace_training(config, shape, width, STEPS)["training step"],
        "sampling": lambda: trace_sampling(config, shape, width, STOP_TOKENS),
        "scoring": lambda: trace_scoring(config, shape, width),
    }
    for name in chosen:
        yield name, tracers[name]()


def _prompt_width(config: RunConfig) -> int:
    """Return the padded width of the longest prompt that the configuration allows."""
    return bucket_width(config.prompts.max_tokens)


def _figures(
    name: str, traced: Any, config: RunConfig, shape: DecoderConfig, where: Slice, dumps: str | None
) -> Figures:
    start, cpu_start = time.monotonic(), time.process_time()
    program = compiled(traced) if dumps is None else laid_out(traced, dumps)
    took = {"compile_seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu_start}
    need = Need.of(program, program_flops(traced.jaxpr.jaxpr) / where.chips)
    times = Times.of(need, where)
    figures = {"program": name, "machine_code": dumps is None, **took, **asdict(need), **asdict(times)}
    figures |= {"bound": times.bound, "seconds": times.longest}
    if name == "training step":
        width = _prompt_width(config)
        figures["mfu_bound"] = utilisation(model_flops(config, shape, width), times, where)
        figures["flops_over_analytic"] = need.flops * where.chips / step_flops(config, shape, width)
    return figures

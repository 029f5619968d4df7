"""``python -m cann_jax.compile_check --config X --topology v5e:16x16``: compile for a slice, and count."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before JAX starts: nothing runs on a device here, and a TPU's own runtime would claim it.
os.environ["JAX_PLATFORMS"] = "cpu"

from rich.table import Table

from cann_jax.command_line.parser import parse_run, run_command
from cann_jax.config.run import RunConfig
from cann_jax.data.padding import bucket_width
from cann_jax.dry_run.programs import trace_sampling, trace_scoring, trace_training
from cann_jax.dry_run.slices.chips import Slice, slice_of
from cann_jax.dry_run.slices.compiler import compiled, keep_dumps, laid_out
from cann_jax.dry_run.slices.flops import model_flops, program_flops, step_flops
from cann_jax.dry_run.slices.roofline import Need, Times, utilisation
from cann_jax.dry_run.slices.topology import devices_of
from cann_jax.files.console import console
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.folder import read_json
from cann_jax.run.batches import batches_of
from cann_jax.runtime.mesh import make_mesh, on_mesh
from cann_jax.runtime.sharding import check_batches, check_model

OWN = ("topology", "model_config", "programs", "json", "machine_code")
PROGRAMS = ("training step", "sampling", "scoring")
STEPS, STOP_TOKENS = 1000, 1  # of no weight in what is counted
HELP = """\
python -m cann_jax.compile_check --config FILE.yaml --topology CHIP:GRID [--KEY VALUE …]

  --topology      TPU slice, v5e:4x4, v5p:4x4x4 or v6e:16x16
  --model_config  a config.json; without it, the one in the folder model.path
  --programs      some of: training step,sampling,scoring
  --json          file to write the figures to
  --machine_code  no: end where the program is optimised and laid out in memory, a small part of the time;
                  for one program. Kernels are not proven to compile then, and bytes moved may come out a
                  fifth too low (485 against 582 GB in the one program that was compiled both ways)
Other keys are the run's; see python -m cann_jax.train --help.
"""


def main(argv: Sequence[str]) -> None:
    """Compile, and print what each program needs of a device.

    Raises:
        InputError: one line that says what is wrong and how to mend it.
    """
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return
    own, rest = split(argv)
    if "topology" not in own:
        raise InputError("command line: --topology is missing; for example --topology v5e:16x16")
    chosen = own.get("programs", ",".join(PROGRAMS)).split(",")
    dumps = keep_dumps() if own.get("machine_code") == "no" else None
    if dumps is not None and len(chosen) > 1:
        raise InputError("command line: --machine_code no is for one program; add --programs 'training step'")
    config, _ = parse_run(rest)
    where = slice_of(own["topology"])
    path = Path(own.get("model_config", f"{config.model.path}/config.json"))
    shape = DecoderConfig.from_hf(read_json(path), str(path))
    with on_mesh(make_mesh(config.mesh, devices_of(where))) as mesh:
        check_batches(batches_of(config), mesh)
        check_model(shape, mesh)
        figures = [figures_of(*each, config, shape, where, dumps) for each in lowered(config, shape, chosen)]
    for line in (f"{where.name} ({where.cloud_name}), mesh {dict(mesh.shape)}", *map(sentence, figures)):
        print(line)
    console().print(table_of(figures, where))
    if "json" in own:
        Path(own["json"]).write_text(json.dumps(figures, indent=1) + "\n")
    if dumps is not None:
        shutil.rmtree(dumps)
        sys.stdout.flush()
        os._exit(0)  # machine code is still being made


def split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This command's own flags, and those of the run."""
    own, rest, tokens = {}, [], list(argv)
    while tokens:
        flag = tokens.pop(0)
        name, has_value, value = flag.removeprefix("--").partition("=")
        if name not in OWN:
            rest.append(flag)
        elif has_value or tokens:
            own[name] = value if has_value else tokens.pop(0)
        else:
            raise InputError(f"command line: {flag} needs a value; write {flag} VALUE")
    return own, rest


def prompt_width(config: RunConfig) -> int:
    """Of the longest prompt that the configuration lets in."""
    return bucket_width(config.prompts.max_tokens)


def lowered(config: RunConfig, shape: DecoderConfig, chosen: Sequence[str]) -> Iterator[tuple[str, Any]]:
    width = prompt_width(config)
    makers = {
        "training step": lambda: trace_training(config, shape, width, STEPS)["training step"],
        "sampling": lambda: trace_sampling(config, shape, width, STOP_TOKENS),
        "scoring": lambda: trace_scoring(config, shape, width),
    }
    for name in chosen:
        if name not in makers:
            raise InputError(f"command line: --programs: there is no {name!r}; use {', '.join(PROGRAMS)}")
        yield name, makers[name]()


def figures_of(
    name: str, traced: Any, config: RunConfig, shape: DecoderConfig, where: Slice, dumps: str | None
) -> dict[str, Any]:
    begun, cpu_begun = time.monotonic(), time.process_time()
    program = compiled(traced) if dumps is None else laid_out(traced, dumps)
    took = {"compile_seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu_begun}
    need = Need.of(program, program_flops(traced.jaxpr.jaxpr) / where.chips)
    times = Times.of(need, where)
    figures = {"program": name, "machine_code": dumps is None, **took, **asdict(need), **asdict(times)}
    figures |= {"bound": times.bound, "seconds": times.longest}
    if name == "training step":
        wanted = model_flops(config, shape, prompt_width(config))
        figures["mfu_bound"] = utilisation(wanted, times, where)
        figures["flops_over_analytic"] = (
            need.flops * where.chips / step_flops(config, shape, prompt_width(config))
        )
    return figures


def sentence(figures: dict[str, Any]) -> str:
    moved = figures["moved"]
    kinds = ", ".join(
        f"{count:.0f} {kind} {moved['received'][kind] / 1e9:.2f} GB" for kind, count in moved["count"].items()
    )
    took = f"{figures['compile_seconds']:.0f} s ({figures['cpu_seconds']:.0f} s of CPU)"
    done = "compiled" if figures["machine_code"] else "laid out"
    return f"{figures['program']}: {done} in {took}; {kinds or 'no collective'}"


def table_of(figures: list[dict[str, Any]], where: Slice) -> Table:
    table = Table(title="per device and step", title_justify="left")
    headings = (
        "program",
        "args GB",
        "temp GB",
        f"peak of {where.chip.memory / 1e9:.0f} GB",
        "TFLOP",
        "GB moved",
    )
    for heading in (*headings, "GB received", "s at least", "bound by", "MFU at most"):
        table.add_column(heading, justify="left" if heading in ("program", "bound by") else "right")
    for row in figures:
        sizes = [row[name] / 1e9 for name in ("arguments", "temporaries", "peak")]
        moved = (
            row["flops"] / 1e12,
            row["moved"]["memory"] / 1e9,
            sum(row["moved"]["received"].values()) / 1e9,
        )
        share = f"{row['mfu_bound']:.0%}" if "mfu_bound" in row else ""
        numbers = [f"{size:.2f}" for size in (*sizes, *moved)]
        table.add_row(row["program"], *numbers, f"{row['seconds']:.3f}", row["bound"], share)
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Make the table of benchmarks/results/compile.md: models compiled for TPU slices, without a TPU.

``PYTHONPATH=DIR_OF_LIBTPU:. python benchmarks/compile_table.py [--machine_code no] [--only WORD …]``

Each row is compiled by a process of its own, which writes a file to ``benchmarks/results/compile/``. Rows
with a file are not compiled again, so that the benchmark can be stopped and continued; delete a row's file to
compile it again.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cann_jax_tools.chips import slice_of
from cann_jax_tools.sizing import Step, best_training, training_plans
from cann_jax_tools.table import collectives_text

from cann_jax.config.training import LoraConfig
from cann_jax.models.config import DecoderConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
MODELS = {"llama-7b": "Llama-7B", "llama-3-8b": "Llama-3-8B", "llama-3-70b": "Llama-3-70B"}
PROGRAMS = {"train": "training step", "sample": "sampling", "score": "scoring"}
# Prompts per step, by slice; with two responses each, this is also the number of pairs.
PROMPTS = {
    "v5e:4x4": 64,
    "v5e:8x8": 128,
    "v5e:16x16": 256,
    "v5p:4x4x4": 128,
    "v5p:8x8x8": 512,
    "v6e:8x8": 256,
    "v6e:16x16": 512,
}
ALL_WEIGHTS = ("--align.lora=null",)
HEADINGS = (
    *("model", "tuned", "slice (cloud name)", "prompts a step", "arguments GB", "temporaries GB"),
    *("peak of memory GB", "TFLOP", "GB to and from memory", "GB received", "collectives", "compute s"),
    *("memory s", "interconnect s", "MFU at most", "compiled in s (CPU s)"),
)


@dataclass(frozen=True)
class Row:
    """One compilation.

    Args:
        program: Key of ``PROGRAMS``.
        model: Key of ``MODELS``.
        topology: Topology name of the slice.
        flags: Settings of the run, beside those that all rows have.
        prompts: Prompts per step or batch.
    """

    program: str
    model: str
    topology: str
    flags: tuple[str, ...]
    prompts: int

    @property
    def name(self) -> str:
        """Name of the row's file, without its suffix."""
        words = re.sub("[^a-z0-9]+", "-", self.tuned).strip("-")
        return f"{self.model}_{words}_{self.topology}".replace(":", "-")

    @property
    def tuned(self) -> str:
        """What is trained; for other programs, the program."""
        if self.program != "train":
            return f"({PROGRAMS[self.program]})"
        if not self.flags:
            return "adapters"
        return "all weights" if self.flags == ALL_WEIGHTS else "adapters, as proposed"

    @property
    def file(self) -> Path:
        """The file of the row's figures."""
        return RESULTS / "compile" / f"{self.name}.json"

    def command(self, machine_code: str) -> list[str]:
        """Return the command that compiles the row."""
        command = [sys.executable, "-m", "cann_jax.compile_check", "--config", "configs/pod.yaml"]
        command += ["--model_config", f"configs/models/{self.model}.json", "--topology", self.topology]
        command += ["--programs", PROGRAMS[self.program], "--machine_code", machine_code]
        command += ["--json", str(self.file), f"--align.prompts_per_step={self.prompts}"]
        return [*command, f"--sample.prompts_per_batch={self.prompts}", *self.flags]


def rows() -> list[Row]:
    """Return all rows, the most important ones first."""

    def training(model: str, full: bool, topology: str) -> Row:
        return Row("train", model, topology, ALL_WEIGHTS if full else (), PROMPTS[topology])

    first = [
        training("llama-7b", False, "v5e:4x4"),
        training("llama-7b", False, "v5p:4x4x4"),
        training("llama-3-8b", False, "v6e:8x8"),
        training("llama-3-70b", False, "v5p:8x8x8"),
        training("llama-3-70b", False, "v5e:16x16"),
        training("llama-3-8b", True, "v5p:4x4x4"),
    ]
    others = [
        Row(kind, model, "v5e:4x4", (), 16)
        for model in ("llama-7b", "llama-3-8b")
        for kind in ("sample", "score")
    ]
    proposed = [
        Row("train", model, topology, _proposal(model, topology), PROMPTS[topology])
        for topology in ("v5e:4x4", "v5p:4x4x4", "v6e:8x8")
        for model in ("llama-7b", "llama-3-8b")
    ]
    rest = [training(model, full, slice) for slice in PROMPTS for full in (False, True) for model in MODELS]
    return list(dict.fromkeys([*first, *others, *proposed, *rest]))


def _proposal(model: str, topology: str) -> tuple[str, ...]:
    """Return the settings that ``train --dry_run --device`` proposes for the step of configs/pod.yaml."""
    path, where = ROOT / f"configs/models/{model}.json", slice_of(topology)
    shape = DecoderConfig.from_hf(json.loads(path.read_text()), str(path))
    step = Step(PROMPTS[topology], 512, 2, 512, LoraConfig(), 8)
    plan = best_training(training_plans(shape, step, where, "bfloat16"), where.chip.memory)
    assert plan is not None, f"{model} fits {topology}"
    mesh = (f"--mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), plan.mesh, strict=True))
    return (*mesh, f"--align.accumulation={plan.accumulation}", f"--align.rematerialise={plan.rematerialise}")


def main() -> None:
    """Compile the rows that have no file yet, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--machine_code", choices=("yes", "no"), default="yes")
    parser.add_argument("--only", nargs="*", default=[""], help="words, one of which a row's name holds")
    arguments = parser.parse_args()
    (RESULTS / "compile").mkdir(exist_ok=True)
    for row in rows():
        if any(word in row.name for word in arguments.only) and not row.file.exists():
            compile_row(row, arguments.machine_code)
            write()
    write()


def compile_row(row: Row, machine_code: str) -> None:
    """Write the row's file; if the program does not fit the chip, the file holds the error."""
    print(f"{row.name} …", flush=True)
    done = subprocess.run(row.command(machine_code), cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 2 and "does not fit" in done.stderr:
        row.file.write_text(json.dumps([{"error": done.stderr.strip().splitlines()[-1]}]) + "\n")
    elif done.returncode:
        print(f"status {done.returncode}: {done.stderr[-2000:]}", flush=True)
        return
    print(done.stdout + done.stderr[-300:], flush=True)


def write() -> None:
    """Write the table between the marks of compile.md; the text around it is written by hand."""
    path = RESULTS / "compile.md"
    before, _, rest = path.read_text().partition("<!-- tables -->\n")
    _, _, after = rest.partition("<!-- end of tables -->\n")
    found = {row: json.loads(row.file.read_text())[0] for row in rows() if row.file.exists()}
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [
        f"| {' | '.join(cells(row, figures))} |" for row, figures in found.items() if "error" not in figures
    ]
    lines += [f"\n{title(row)}: {figures['error']}" for row, figures in found.items() if "error" in figures]
    text = "\n".join(lines)
    path.write_text(f"{before}<!-- tables -->\n{text}\n<!-- end of tables -->\n{after}")


def title(row: Row) -> str:
    """Return the model, what is trained, and the slice."""
    return f"{MODELS[row.model]}, {row.tuned}, {row.topology} ({slice_of(row.topology).cloud_name})"


def cells(row: Row, found: dict[str, Any]) -> list[str]:
    """Return the row's cells, from its figures."""
    where = slice_of(row.topology)
    sizes = [f"{found[key] / 1e9:.2f}" for key in ("arguments", "temporaries", "peak")]
    moved, kinds = found["moved"], collectives_text(found["moved"])
    seconds = [f"{found[key]:.3f}" for key in ("compute", "memory", "interconnect")]
    took = f"{found['compile_seconds']:.0f} ({found['cpu_seconds']:.0f})"
    return [
        *(MODELS[row.model], row.tuned, f"{row.topology} ({where.cloud_name})", str(row.prompts)),
        *(*sizes[:2], f"{sizes[2]} of {where.chip.memory / 1e9:.0f}", f"{found['flops'] / 1e12:.1f}"),
        *(f"{moved['memory'] / 1e9:.1f}", f"{sum(moved['received'].values()) / 1e9:.1f}", kinds, *seconds),
        f"{found['mfu_bound']:.0%} ({found['bound']})" if "mfu_bound" in found else f"({found['bound']})",
        took if found["machine_code"] else f"no machine code: {took}",
    ]


if __name__ == "__main__":
    main()

"""Stop a run by SIGTERM at random moments; it must lose and repeat nothing, and end with the same weights.

    python -m benchmarks.preemption [--signals 20] [--seed 0]

A tiny random Llama (saved by transformers) goes through all stages once undisturbed, then again with SIGTERM
at ``--signals`` moments; the run is restarted each time. Moments are drawn over the progress of the run, not
over time: a number of finished pieces (shards, blocks of scores, training steps, stages), and up to a second
after the piece. If two moments fall on the same piece, the later one stops the next start before it has done
anything.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.builders import ROOT
from tests.builders.models import save_tiny
from tests.builders.runs import STAGES, command, write_config, write_prompts

RESULTS = ROOT / "benchmarks/results/preemption.md"
STOPPED = 75
SHARDS = ("sample/responses-*", "score/scores-*", "align/reference-*", "evaluate/*-*")
METRICS = "align/metrics.jsonl"


class Stop(NamedTuple):
    """One SIGTERM: the stage, the exit status, the last line printed, and what was finished by then."""

    stage: str
    pieces: int
    status: int
    said: str
    steps: int
    written: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = setting(Path(folder))
        whole, cut = (Path(folder) / "runs" / name for name in ("whole", "cut"))
        begun = time.monotonic()
        stopped(config, whole, None)
        seconds, pieces = time.monotonic() - begun, pieces_of(whole)
        print(f"undisturbed: {seconds:.0f} s, {pieces} pieces", flush=True)
        stops = disturbed(config, cut, pieces, arguments)
        RESULTS.write_text(report(whole, cut, stops, pieces, seconds, arguments))


def setting(folder: Path) -> str:
    """Return the configuration, with enough shards and steps that no stage is a single piece."""
    model = save_tiny(folder / "model")
    config = write_config(folder, model)
    write_prompts(folder / "train.jsonl", 96, "Tell me about")
    write_prompts(folder / "heldout.jsonl", 24, "Explain")
    return config


def disturbed(config: str, folder: Path, pieces: int, arguments: argparse.Namespace) -> list[Stop]:
    """Stop the run at all moments, then let it finish; return the stops."""
    draw, stops = random.Random(arguments.seed), []
    for moment in sorted(draw.randrange(pieces) for _ in range(arguments.signals)):
        stops.append(stopped(config, folder, moment, draw.uniform(0, 1)))
        print(f"{len(stops)}: {stops[-1][:4]}", flush=True)
    stopped(config, folder, None)
    return stops


def stopped(config: str, folder: Path, moment: int | None, delay: float = 0) -> Stop:
    """Start the run; send SIGTERM once ``moment`` pieces are finished and ``delay`` seconds have passed."""
    run = subprocess.Popen(
        command(config, "--name", folder.name, "--align.prompts_per_step", "4"),
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    if moment is not None:
        while pieces_of(folder) < moment:
            assert run.poll() is None, f"ended with {run.returncode} before its moment"
            time.sleep(0.01)
        time.sleep(delay)
        run.send_signal(signal.SIGTERM)
    lines = run.communicate()[1].strip().splitlines()
    assert moment is not None or run.returncode == 0, lines
    return Stop(
        stage_of(folder), pieces_of(folder), run.returncode, lines[-1] if lines else "", *made(folder)
    )


def pieces_of(folder: Path) -> int:
    steps, written = made(folder)
    return steps + len(written)


def made(folder: Path) -> tuple[int, dict[str, int]]:
    """Return the number of training steps, and when each finished file was written, in nanoseconds."""
    files = [path for pattern in (*SHARDS, "*/manifest.json") for path in folder.glob(pattern)]
    finished = [path for path in files if path.suffix in (".parquet", ".json")]
    written = {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in finished}
    lines = (folder / METRICS).read_text().splitlines() if (folder / METRICS).exists() else []
    return len(lines), written


def stage_of(folder: Path) -> str:
    """Return the first stage that is not committed."""
    open_stages = [name for name in STAGES if not (folder / name / "manifest.json").exists()]
    return open_stages[0] if open_stages else "report"


def repeated(stops: list[Stop], cut: Path) -> list[str]:
    """Return files that were written again after a stop that they preceded, and steps that were lost."""
    last = made(cut)[1]
    again = [name for stop in stops for name, when in stop.written.items() if last.get(name) != when]
    lost = [f"step {a.steps}" for a, b in pairwise(stops) if b.steps < a.steps]
    return again + lost


def weights(folder: Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as reader:
        leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder / "align/weights"))
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def equal(whole: Path, cut: Path) -> dict[str, bool]:
    """Return, by artifact, whether both runs left the same bytes."""
    ours, theirs = weights(cut), weights(whole)
    same = {
        "final weights": ours.keys() == theirs.keys()
        and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    }
    for name in (METRICS, "dual/dual.json", "evaluate/results.json", "score/scores.parquet"):
        same[name] = (cut / name).read_bytes() == (whole / name).read_bytes()
    return same


def report(
    whole: Path, cut: Path, stops: list[Stop], pieces: int, seconds: float, arguments: argparse.Namespace
) -> str:
    same, again = equal(whole, cut), repeated(stops, cut)
    rows = [
        f"| {number} | {stop.stage} | {stop.pieces} | {stop.status} | {stop.said or 'nothing'} |"
        for number, stop in enumerate(stops, 1)
    ]
    steps = [json.loads(line)["step"] for line in (cut / METRICS).read_text().splitlines()]
    summary = [f"- {name} equal, bit for bit: {'yes' if value else '**no**'}" for name, value in same.items()]
    summary.append(f"- files written twice or steps lost: {', '.join(again) if again else 'none'}")
    summary.append(f"- every one of {len(steps)} steps logged once: {steps == list(range(len(steps)))}")
    text = TEXT.format(
        signals=arguments.signals, seed=arguments.seed, pieces=pieces, seconds=seconds,
        rows="\n".join(rows), summary="\n".join(summary),
        held=sum(stop.status in (STOPPED, -signal.SIGTERM) for stop in stops),
    )  # fmt: skip
    print(text)
    return text


TEXT = """\
# SIGTERM at random moments

    python -m benchmarks.preemption --signals {signals} --seed {seed}

A tiny random Llama through all stages on one CPU device: {pieces} pieces (shards, blocks of scores, training
steps, stages), {seconds:.0f} s undisturbed. Moments are drawn over the pieces, and up to a second after one.
{held} of {signals} signals stopped the run; it was started again after each.

{summary}

| signal | in stage | pieces finished | status | last line |
|---|---|---|---|---|
{rows}

Status 75 is "start again"; -15 is a process that was stopped before it had begun to listen.
"""

if __name__ == "__main__":
    sys.exit(main())

"""SIGTERM at random moments over a run; it must lose nothing, repeat nothing, and end with the same weights.

``python benchmarks/preemption.py --config FILE.yaml [--signals 20] [--seed 0]``

Runs the configuration once undisturbed (as NAME-whole), then again (as NAME-cut) with SIGTERM after a random
time, started again each time, until it has been stopped ``--signals`` times; then to its end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

STOPPED = 75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--run_dir", default="runs/preemption")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.monotonic()
    assert run(arguments, "whole") == 0
    seconds = time.monotonic() - begun
    moment, statuses = random.Random(arguments.seed), []
    while len(statuses) < arguments.signals:
        # Starting costs most of a short run: moments are drawn over all of it, not over what is left.
        statuses.append(run(arguments, "cut", after=moment.uniform(0.2, 1.0) * seconds))
        print(f"{len(statuses)}: status {statuses[-1]}", flush=True)
        if statuses[-1] == 0:
            break
    assert run(arguments, "cut") == 0
    report(Path(arguments.run_dir), statuses, seconds)


def run(arguments: argparse.Namespace, name: str, after: float | None = None) -> int:
    """The exit status of a run, with SIGTERM ``after`` so many seconds."""
    command = [sys.executable, "-m", "cann_jax.train", "--config", arguments.config]
    command += ["--run_dir", arguments.run_dir, "--name", name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ})
    if after is not None:
        try:
            return process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    return process.wait()


def report(folder: Path, statuses: list[int], seconds: float) -> None:
    stopped = sum(status in (STOPPED, -signal.SIGTERM) for status in statuses)
    whole, cut = (weights(folder / name) for name in ("whole", "cut"))
    same = whole.keys() == cut.keys() and all(np.array_equal(whole[name], cut[name]) for name in whole)
    steps = [
        json.loads(line)["step"] for line in (folder / "cut/align/metrics.jsonl").read_text().splitlines()
    ]
    print(f"undisturbed {seconds:.0f} s; {len(statuses)} signals, {stopped} stopped the run")
    print(f"final weights equal: {same}; every step logged once: {steps == list(range(len(steps)))}")
    sys.exit(not same)


def weights(folder: Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as reader:
        return {
            name: np.asarray(leaf)
            for name, leaf in reader.restore(folder.resolve() / "align/weights").items()
        }


if __name__ == "__main__":
    main()

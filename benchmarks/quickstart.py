"""Measure the quickstart after installation: time by stage, compile time apart, peak memory, what it gave.

python benchmarks/quickstart.py [--folder runs]
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/quickstart.md"
STAGE = re.compile(r"^(\w+): (\d+) s(?:, of it (\d+) s to compile (\d+) programs)?$")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="of the run; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary)
        command = ["-m", "cann_jax.train", "--config", "configs/quickstart.yaml", "--run_dir", str(folder)]
        began = time.monotonic()
        stages = []
        # A fresh machine has none of the programs that an earlier run leaves in the cache.
        cold = os.environ | {"XDG_CACHE_HOME": f"{temporary}/cache"}
        with subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=cold, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if found := STAGE.match(line.rstrip()):
                    stages.append(found.groups(default="0"))
        took = time.monotonic() - began
        if process.returncode:
            raise SystemExit(process.returncode)
        results = json.loads((folder / "quickstart/evaluate/results.json").read_text())
    write(took, stages, results)


def write(took: float, stages: list[tuple[str, ...]], results: dict) -> None:
    lines = ["| stage | s | of it compiling | programs |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(stage)} |" for stage in stages]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    relevance, reward, summary = results["relevance"], results["reward"], results["summary"]
    low, high = relevance["interval"]
    said = (
        f"Asked {relevance['asked']:+.3f}, measured {relevance['measured']:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"on {summary['prompts']} unseen prompts × {summary['responses']}, lower bound "
        f"{relevance['certificate']['lower']:+.3f}: {summary['verdict']}. Reward {reward['measured']:+.3f}, "
        f"scale {summary['scale']:.3f}, KL {summary['kl']:.2f} nats."
    )
    parts = [
        "# The quickstart, by stage",
        "    python benchmarks/quickstart.py",
        machine("jax", "flax"),
        f"{took / 60:.1f} minutes, at most {memory:.1f} GiB. One run, seed 0.",
        "\n".join(lines),
        said,
    ]
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()

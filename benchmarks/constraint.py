"""Asked against measured: whole runs over margins and seeds, and with one thing changed at a time.

    python benchmarks/constraint.py
        [--variants base,certified,scores,pairs,uncalibrated,plug_in,calibrated_by_4] [--margins 0.1,…]
        [--seeds 0,…] [--folder runs/constraint]

Every run is ``configs/quickstart.yaml`` with ``calibrate.aim: margin``; the samples and scores of seed 0 are
shared: one draw, which each row names by a hash, because only rows of one draw can be compared in pairs. A
seed determines the initial adapters, the order of the prompts, the responses taken, and the draws
of calibration and evaluation; the reference's draws there are shared among the runs of a seed. Finished
rows are kept in ``benchmarks/results/constraint.jsonl``, so that the script goes on where it was
interrupted; it also writes ``constraint.md``, ``constraint.png`` and the picture of the base in the README.
About ten minutes a run on two cores.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from constraint_page import NAME, draw, page
from contest import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "docs/images/asked_measured.png"
ROWS = RESULTS / "constraint.jsonl"
CONFIG = "configs/quickstart.yaml"
# What differs from the base, by variant.
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "certified": ("--calibrate.aim", "certificate"),  # the quickstart itself, at the margin .2
    "scores": ("--align.labels", "scores"),
    "pairs": ("--align.loss", "dpo"),
    "uncalibrated": ("--prompts.calibration", "null"),
    "plug_in": ("--dual.multipliers", "plug_in"),
    "calibrated_by_4": ("--calibrate.responses", "4"),  # of 2: what the noise of the calibration draws does
}
SHARED = ("sample", "score")
# Stages that a variant has in common with the base's run of its margin and seed.
AS_BASE = dict.fromkeys(("certified", "uncalibrated", "calibrated_by_4"), ("dual", "align"))
# The reference's draws depend on the seed alone: parts with commits of their own, by stage.
SEEDED = {"calibrate": "reference", "evaluate": "reference"}

# How a policy's gain on the calibration prompts is estimated. Rows without it are of the difference of both
# policies' means, as it was before, whose standard error is two thirds larger.
CALIBRATION = "by log-probs"
# Another number of responses is another draw.
STORED = {("calibrated_by_4", "calibrate"): "calibrate-by-4"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--margins", default="0.1,0.15,0.2,0.25")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--folder", default="runs/constraint")
    parser.add_argument("--one", nargs=3, metavar=("VARIANT", "MARGIN", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        variant, margin, seed = given.one
        return one_run(given.folder, variant, float(margin), int(seed))
    wanted = [
        (variant, float(margin), int(seed))
        for variant in given.variants.split(",")
        for seed in given.seeds.split(",")
        for margin in given.margins.split(",")
    ]
    for key in wanted:
        print(f"constraint: {key}", flush=True)
        command = [sys.executable, __file__, "--folder", given.folder, "--one", *map(str, key)]
        if subprocess.run(command).returncode:  # the run says why; the others go on
            print(f"constraint: {key} failed", flush=True)
        write_report()
    write_report()


def flags_of(folder: str, name: str, seed: int) -> list[str]:
    """Return the flags that all runs have."""
    return [
        *("--config", CONFIG, "--run_dir", folder, "--name", name, "--seed", str(seed)),
        *("--calibrate.aim", "margin", "--export", "[]"),
    ]


def one_run(folder: str, variant: str, margin: float, seed: int) -> None:
    """Do one run, and append its row."""
    from cann_jax.command_line.run_options import parse_run
    from cann_jax.run.folder import open_folder
    from cann_jax.run.run import Run
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.session import session

    keep_compilations()
    shared = Run(parse_run(flags_of(folder, "shared", 0))[0])
    name = f"{variant}-{margin:g}-{seed}"
    asked = (f"--constraints.{NAME}.margin", str(margin))
    own = [*flags_of(folder, name, seed), *asked, *VARIANTS[variant]]
    run = Run(parse_run(own)[0])
    with session(run.config, run.config.batches()):
        from cann_jax.run.checks import check_stages, run_checked_stages

        with open_folder(shared.folder, shared.config, lambda: check_stages(shared, shared.stages)):
            run_checked_stages(shared, [s for s in shared.stages if s.name in SHARED])
        row = {"key": [variant, margin, seed], "draw": draw_of(shared), "calibration": CALIBRATION}
        if any(row == {name: found.get(name) for name in row} for found in rows()):
            return  # finished before
        began = time.monotonic()
        store = Path(folder) / "seeded" / str(seed)
        same = Run(parse_run([*flags_of(folder, f"base-{margin:g}-{seed}", seed), *asked])[0])
        givers = dict.fromkeys(SHARED, shared) | dict.fromkeys(AS_BASE.get(variant, ()), same)
        stored = {name: store / STORED.get((variant, name), name) for name in SEEDED}
        with open_folder(run.folder, run.config, lambda: check_stages(run, run.stages)):
            row |= whole_run(run, givers, stored)
    row |= {"seconds": round(time.monotonic() - began), "machine": processor()}
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    shutil.rmtree(Path(run.folder / "align/checkpoints"), ignore_errors=True)  # a hundred runs' fill a disk


def draw_of(run: Any) -> str:
    """Return a hash of the reference's responses: another processor, or other code, draws others."""
    from cann_jax.run.outputs import read_samples

    return hashlib.sha256(read_samples(run).tokens.astype("<i4").tobytes()).hexdigest()[:8]


def whole_run(run: Any, givers: Mapping[str, Any], stored: Mapping[str, Path]) -> dict[str, Any]:
    """Run every stage, taking over those that another run gives; return the row.

    ``stored`` are the folders of what depends on the seed alone, by stage.
    """
    from cann_jax.files.errors import InfeasibleError
    from cann_jax.run.checks import run_checked_stages
    from cann_jax.run.execution import expected_of
    from cann_jax.run.manifest import begin
    from cann_jax.run.outputs import read_calibration, read_dual, read_results

    row: dict[str, Any] = {}
    for stage in run.stages:
        folder = run.folder / stage.name
        giver = givers.get(stage.name)
        if giver is not None and (giver.folder / stage.name / "manifest.json").exists():
            adopt(run, giver, stage)
        elif (part := SEEDED.get(stage.name)) and not (folder / "manifest.json").exists():
            begin(folder, expected_of(run, stage), parts=stage.parts)
            copy(stored[stage.name], Path(folder) / part)
        try:
            run_checked_stages(run, (stage,))
        except InfeasibleError as error:
            return {"refused": str(error)}
        if stage.name in SEEDED:
            copy(Path(folder) / SEEDED[stage.name], stored[stage.name])
    results, found = read_results(run), read_dual(run)
    row = {
        "multiplier": found.multipliers[NAME],
        "predicted": results[NAME]["predicted"],
        "predicted_interval": results[NAME]["predicted_interval"],
        "reward_predicted": results["reward"]["predicted"],
        "measured": results[NAME]["measured"],
        "interval": results[NAME]["interval"],
        "reward": results["reward"]["measured"],
        "reward_interval": results["reward"]["interval"],
        "verdict": results["summary"]["verdict"],
        "scale": results["summary"]["scale"],
        "kl": results["summary"]["kl"],
        "prompts": results["summary"]["prompts"],
        "responses": results["summary"]["responses"],
    }
    if run.config.calibrated:
        row["met"] = read_calibration(run)["met"]
    return row


def adopt(run: Any, giver: Any, stage: Any) -> None:
    """Copy a finished stage of another run, and commit it as this run's own."""
    from cann_jax.run.execution import expected_of
    from cann_jax.run.manifest import MANIFEST, OUTPUTS, begin, commit
    from cann_jax.run.stages import holding

    source, folder = Path(giver.folder / stage.name), run.folder / stage.name
    begin(folder, expected_of(run, stage), keep_work=False)
    for name in json.loads((source / MANIFEST).read_text())[OUTPUTS]:
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, Path(folder) / name)
    commit(folder, expected_of(run, stage), holding(stage.writes, run.config))


def copy(source: Path, target: Path) -> None:
    """Copy a part that there is, where there is none yet."""
    if source.exists() and not target.exists():
        shutil.copytree(source, target)


def rows() -> list[dict[str, Any]]:
    """Return the finished rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def write_report() -> None:
    """Write the tables and the picture of what is finished."""
    every = rows()
    beta = yaml.safe_load((ROOT / CONFIG).read_text())["dual"]["beta"]
    title = __doc__.strip().splitlines()[0] if __doc__ else ""
    (RESULTS / "constraint.md").write_text(page(every, VARIANTS, title, beta))
    draw(
        RESULTS / "constraint.png",
        every,
        [name for name in VARIANTS if any(row["key"][0] == name for row in every)],
    )
    draw(README, every, ["base"])


if __name__ == "__main__":
    main()

"""What each method keeps of the reward at what gain of the constraint, and what it costs.

    python -m benchmarks.trade_off [--methods one_shot,primal_dual,…] [--scorers quickstart,exchanged]
        [--seeds 0,1,2] [--folder runs/trade_off] [--config configs/quickstart.yaml]

Every row is one run of ``python -m cann_jax.train``, as docs/baselines.md gives them, over the samples and
scores of its seed. A method that takes a margin is asked for four; the others are run along their own dial.
``exchanged`` makes the quickstart's reward the constraint, and its constraint the reward.

Finished rows are kept in ``results/trade_off.jsonl`` and not run again; ``trade_off.md`` and ``.png`` are
written after each. Six to 25 minutes a row on two cores, 34 rows a seed and pair of scorers.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.contest import processor
from benchmarks.trade_off_page import write_page

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
# Of the constraint's gain, by pair of scorers: the ceiling is about .33 of relevance.
MARGINS = {"quickstart": (0.1, 0.15, 0.2, 0.25), "exchanged": (0.1, 0.2, 0.3, 0.4)}
WEIGHTS = (0.8, 0.6, 0.4, 0.2)  # of the reward; the constraint has the rest
BAD_INPUT = 2  # the status of a margin that is out of reach
UNSCALED = ("--prompts.calibration", "null")
# What another run of the seed has already: samples, scores, and the reference's responses to other prompts.
# The experts are those of a run by the same method.
SHARED = ("config.json", "sample", "score", "calibrate", "evaluate")


def points(scorers: str, name: str) -> dict[str, dict[float | None, tuple[str, ...]]]:
    """Return the flags of every method by its dial: margin, weight or multiplier; None where it has none."""

    def multipliers(constraint: float, reward: float = 1.0) -> tuple[str, ...]:
        return ("--dual.multipliers", f"{{reward: {reward:g}, {name}: {constraint:g}}}")

    def at_margins(*flags: str) -> dict[float | None, tuple[str, ...]]:
        return {each: (f"--constraints.{name}.margin", str(each), *flags) for each in MARGINS[scorers]}

    sums: dict[float | None, tuple[str, ...]] = {w: multipliers(round(1 - w, 6), w) for w in WEIGHTS}
    dpo = ("--align.loss", "dpo", "--align.labels", "scores")
    return {
        "one_shot": at_margins("--calibrate.aim", "certificate"),
        "dial": at_margins("--calibrate.aim", "certificate", "--align.dial", "true"),
        "reference": {None: ("--evaluate.policy", "reference")},
        "reward": {None: (*multipliers(0), *UNSCALED)},
        "constraint": {None: (*multipliers(1, 0), *UNSCALED)},
        "weighted_sum": {w: (*flags, *UNSCALED) for w, flags in sums.items()},
        "soup": {w: ("--align.combination", "soup", *flags, *UNSCALED) for w, flags in sums.items()},
        "sacpo": {
            each: ("--align.combination", "sequence", *multipliers(each), *UNSCALED)
            for each in (1.0, 2.5, 5.0, 10.0)
        },
        "safe_dpo": {
            each: (*dpo, "--align.safety_offset", str(each), *multipliers(0), *UNSCALED)
            for each in (0.0, 1.0, 4.0)
        },
        "primal_dual": {
            margin: (*flags, *multipliers(0), "--rounds", "4", *UNSCALED)
            for margin, flags in at_margins().items()
        },
        "resample": at_margins("--evaluate.policy", "resample"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", help="all by default")
    parser.add_argument("--scorers", default=",".join(MARGINS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("runs/trade_off"))
    parser.add_argument("--config", type=Path, default=ROOT / "configs/quickstart.yaml")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of trade_off.jsonl, .md and .png"
    )
    given = parser.parse_args()
    path = given.results / "trade_off.jsonl"
    for key, config, flags in wanted(given):
        if key not in [row["key"] for row in rows(path)]:
            print(f"trade_off: {key}", flush=True)
            found = one_run(given.folder, config, key, flags)
            if found is None:  # a fault of the machine: the run has said it, and is tried again next time
                continue
            with path.open("a") as file:
                file.write(json.dumps({"key": key, **found, "machine": processor()}) + "\n")
            write_page(given.results, rows(path), __doc__ or "")
    write_page(given.results, rows(path), __doc__ or "")


def wanted(given: argparse.Namespace) -> Iterator[tuple[list[Any], Path, tuple[str, ...]]]:
    """Yield (scorers, method, dial, seed), configuration and flags of every row that is asked for."""
    for scorers in given.scorers.split(","):
        config, name = configuration(given.folder, given.config, scorers)
        methods = points(scorers, name)
        for seed in map(int, given.seeds.split(",")):
            for method in given.methods.split(",") if given.methods else methods:
                for dial, flags in methods[method].items():
                    yield [scorers, method, dial, seed], config, flags


def configuration(folder: Path, path: Path, scorers: str) -> tuple[Path, str]:
    """Return the configuration of a pair of scorers, and its constraint's name."""
    config = yaml.safe_load(path.read_text())
    (name,) = config["constraints"]
    if scorers == "quickstart":
        return path, name
    constraint = config["constraints"].pop(name)
    reward, config["reward"]["scorer"] = config["reward"]["scorer"], constraint["scorer"]
    config["constraints"] = {reward["kind"]: {"scorer": reward, "margin": MARGINS[scorers][0]}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exchanged.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "exchanged.yaml", reward["kind"]


def one_run(folder: Path, config: Path, key: list[Any], flags: tuple[str, ...]) -> dict[str, Any] | None:
    """Run one row over what its seed's runs before it have left; return what it gave, None if it broke."""
    scorers, method, dial, seed = key
    seeds = folder / scorers / str(seed)
    name = method if dial is None else f"{method}-{dial:g}"
    command = [sys.executable, "-m", "cann_jax.train", "--config", str(config), "--export", "[]"]
    command += ["--run_dir", str(seeds), "--seed", str(seed), "--name", name, *flags]
    take_over(seeds, seeds / name, method)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    print(done.stderr[-3000:], file=sys.stderr, flush=True)
    if done.returncode == BAD_INPUT:
        return {"refused": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        return None
    keep(seeds / name, seeds, method)
    return measured(json.loads((seeds / name / "evaluate/results.json").read_text()))


def take_over(seeds: Path, run: Path, method: str) -> None:
    """Copy into a run's folder what its seed's runs share; ``train`` redoes what does not fit."""
    for stage, place in shared(seeds, method):
        if place.exists() and not (run / stage).exists():
            run.mkdir(parents=True, exist_ok=True)
            copy(place, run / stage)


def keep(run: Path, seeds: Path, method: str) -> None:
    """Move a finished run's shared stages to where the seed's others find them; drop what fills the disk."""
    for stage, place in shared(seeds, method):
        if (run / stage).exists() and not place.exists():
            place.parent.mkdir(exist_ok=True)
            copy(run / stage, place)
    for checkpoints in run.glob("*/checkpoints"):
        shutil.rmtree(checkpoints)


def shared(seeds: Path, method: str) -> list[tuple[str, Path]]:
    """Return what runs of a seed share, and where it is kept."""
    kept = [(stage, seeds / "shared" / stage) for stage in SHARED]
    return [*kept, ("experts", seeds / "shared" / f"experts-{method}")]


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a run's results."""
    summary = results["summary"]
    (name,) = set(results) - {"summary", "also", "reward"}
    return {
        "measured": results[name]["measured"],
        "interval": results[name]["interval"],
        "reward": results["reward"]["measured"],
        "reward_interval": results["reward"]["interval"],
        "kl": summary["kl"],
        "verdict": summary["verdict"],
        "compute": summary["compute"],
    }


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the finished rows."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()

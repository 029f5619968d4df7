"""What each method keeps of the reward at what gain of the constraint, and what it costs.

    python -m benchmarks.trade_off [--methods one_shot,primal_dual,…] [--scorers quickstart,exchanged]
        [--seeds 0,1,2] [--folder runs/trade_off] [--config configs/quickstart.yaml]

Every row is one run of ``python -m cann_jax.train``, as docs/baselines.md gives them, over the samples and
scores of its seed. A method that takes a margin is asked for four; the others are run along their own dial,
soups at the third of the margins, to which they are scaled. ``exchanged`` makes the quickstart's reward the
constraint, and its constraint the reward. ``one_shot``, ``dial`` and ``primal_dual`` aim at the margin
itself, so that their errors compare. A policy whose gain is the margin is certified at 95 % one time in
twenty, so that certificates compare policies that aim above it: ``certified``, the one shot with
``calibrate.aim: certificate``, and ``primal_dual_raised``, which is asked for as much more as a certificate
takes. A row holds if the lower bound of its certificate reaches the margin, whatever it aimed at.

Finished rows are kept in ``results/trade_off.jsonl``; one is run again if its configuration or flags have
changed, or the samples that its seed shares. ``trade_off.md`` and ``.png`` are written after each row, of the
last draw of each seed. Six to 25 minutes a row on two cores, 42 rows a seed and pair of scorers.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import yaml

from benchmarks.arguments import listed, one_of
from benchmarks.contest import processor
from benchmarks.trade_off_page import write_page
from cann_jax.command_line.run_options import parse_run
from cann_jax.config.run import RunConfig
from cann_jax.files.errors import InfeasibleError, InputError
from cann_jax.files.hashes import fingerprint_json
from cann_jax.run.manifest import MANIFEST, commit_fingerprint

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
# Of the constraint's gain, by pair of scorers: the ceiling is about .33 of relevance.
MARGINS = {"quickstart": (0.1, 0.15, 0.2, 0.25), "exchanged": (0.1, 0.2, 0.3, 0.4)}
# Standard error of that gain on the quickstart's 576 prompts, with two responses of each policy.
ERRORS = {"quickstart": 0.0155, "exchanged": 0.064}
WEIGHTS = (0.8, 0.6, 0.4, 0.2)  # of the reward in a soup; the constraint has the rest
LAMBDAS = (1.0, 2.5, 5.0, 10.0)  # of the constraint, the reward having weight 1: SACPO's grid
UNSCALED = ("--prompts.calibration", "null")
# What another run of the seed has already: samples, scores, and the reference's responses to other prompts.
# The experts are those of a run by the same method.
SHARED = ("config.json", "sample", "score", "calibrate", "evaluate")
# Of these, all runs of a seed, or of a method, have the same commit; of the others only a part is shared.
ALIKE = ("sample", "score", "experts")
PARTIAL = ".partial"  # what was copied of a file or folder, until it is whole

Points = dict[str, dict[float | None, tuple[str, ...]]]


def certificate_takes(scorers: str, config: RunConfig) -> float:
    """Return how far above a margin a gain must be for its certificate to hold with ``calibrate.power``."""
    normal = NormalDist()
    levels = config.evaluate.confidence, config.calibrate.power
    return sum(map(normal.inv_cdf, levels)) * ERRORS[scorers]


def points(scorers: str, config: RunConfig) -> Points:
    """Return the flags of every method by its dial: margin, weight or multiplier; None where it has none.

    Args:
        scorers: The pair of scorers.
        config: The configuration that they are flags of; it has one constraint.
    """
    (name,) = config.constraints

    def multipliers(constraint: float, reward: float = 1.0) -> tuple[str, ...]:
        return ("--dual.multipliers", f"{{reward: {reward:g}, {name}: {constraint:g}}}")

    def asked(margin: float) -> tuple[str, ...]:
        return (f"--constraints.{name}.margin", f"{margin:.4g}")

    def at_margins(*flags: str, above: float = 0.0) -> dict[float | None, tuple[str, ...]]:
        return {each: (*asked(each + above), *flags) for each in MARGINS[scorers]}

    to_margin = ("--calibrate.aim", "margin")
    # Scaled, because by weights that add up to one no soup comes as far as a margin.
    soup = ("--align.combination", "soup", *asked(MARGINS[scorers][2]), *to_margin)
    rounds = (*multipliers(0), "--rounds", "4", *UNSCALED)
    # All responses: of the two extremes by the reward both may be unsafe, which is no pair.
    every = ("--align.group_size", str(config.sample.responses))
    safe = ("--align.loss", "dpo", "--align.labels", "scores", *every)
    return {
        "one_shot": at_margins(*to_margin),
        "dial": at_margins(*to_margin, "--align.dial", "true"),
        "certified": at_margins("--calibrate.aim", "certificate"),
        "reference": {None: ("--evaluate.policy", "reference")},
        "reward": {None: (*multipliers(0), *UNSCALED)},
        "constraint": {None: (*multipliers(10, 0), *UNSCALED)},
        "weighted_sum": {each: (*multipliers(each), *UNSCALED) for each in LAMBDAS},
        "soup": {w: (*soup, *multipliers(round(1 - w, 6), w)) for w in WEIGHTS},
        "sacpo": {
            each: ("--align.combination", "sequence", *multipliers(each), *UNSCALED) for each in LAMBDAS
        },
        "safe_dpo": {
            each: (*safe, "--align.safety_offset", str(each), *multipliers(0), *UNSCALED)
            for each in (0.0, 1.0, 4.0)
        },
        "primal_dual": at_margins(*rounds),
        "primal_dual_raised": at_margins(*rounds, above=certificate_takes(scorers, config)),
        # By the true scores, which the plug-in λ is of; the attainable one is for what a model can tell.
        "resample": at_margins("--evaluate.policy", "resample", "--dual.multipliers", "plug_in"),
    }


QUICKSTART = ROOT / "configs/quickstart.yaml"
METHODS = tuple(points("quickstart", parse_run(["--config", str(QUICKSTART)])[0]))


class Row(NamedTuple):
    """A row that is asked for.

    Args:
        key: Scorers, method, dial and seed.
        config: Path of the configuration.
        flags: What differs from it.
        fingerprint: Of the configuration's content and the flags.
    """

    key: list[Any]
    config: Path
    flags: tuple[str, ...]
    fingerprint: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=listed(one_of(METHODS)), default=list(METHODS))
    parser.add_argument("--scorers", type=listed(one_of(MARGINS)), default=list(MARGINS))
    parser.add_argument("--seeds", type=listed(int), default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/trade_off"))
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of trade_off.jsonl, .md and .png"
    )
    given = parser.parse_args()
    try:
        every = list(wanted(given))
    except InputError as error:
        parser.error(str(error))
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / "trade_off.jsonl"
    for row in every:
        if not is_done(row, rows(path), drawn(seed_folder(given.folder, row.key) / "shared")):
            print(f"trade_off: {row.key}", flush=True)
            found = one_run(given.folder, row)
            if found is None:  # a fault: the run has said it, and is tried again next time
                continue
            with path.open("a") as file:
                file.write(json.dumps(found | {"machine": processor()}) + "\n")
            write_page(given.results, rows(path), __doc__ or "")
    write_page(given.results, rows(path), __doc__ or "")


def wanted(given: argparse.Namespace) -> Iterator[Row]:
    """Yield every row that is asked for, a pair of scorers and a seed after the other."""
    for scorers in given.scorers:
        config = configuration(given.folder, given.config, scorers)
        methods = points(scorers, parse_run(["--config", str(config)])[0])
        content = yaml.safe_load(config.read_text())
        for seed in given.seeds:
            for method in given.methods:
                for dial, flags in methods[method].items():
                    fingerprint = fingerprint_json([content, flags])[:8]
                    yield Row([scorers, method, dial, seed], config, flags, fingerprint)


def configuration(folder: Path, path: Path, scorers: str) -> Path:
    """Return the file of a pair of scorers' configuration.

    Raises:
        InputError: The configuration is not one of a run, or has not just one constraint.
    """
    parsed = parse_run(["--config", str(path)])[0]
    if len(parsed.constraints) != 1:
        raise InputError(f"{path}: has {len(parsed.constraints)} constraints; give one that has one")
    (name,) = parsed.constraints
    if scorers == "quickstart":
        return path
    config = yaml.safe_load(path.read_text())
    constraint = config["constraints"].pop(name)
    reward, config["reward"]["scorer"] = config["reward"]["scorer"], constraint["scorer"]
    config["constraints"] = {reward["kind"]: {"scorer": reward, "margin": MARGINS[scorers][0]}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exchanged.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "exchanged.yaml"


def is_done(row: Row, finished: Sequence[dict[str, Any]], draw: str | None) -> bool:
    """Return whether a row has been run as it is now, over the samples ``draw`` of its seed if it has any."""
    return any(
        each["key"] == row.key
        and each.get("fingerprint") == row.fingerprint
        and (draw is None or each.get("draw") == draw)
        for each in finished
    )


def drawn(run: Path) -> str | None:
    """Return a hash of a run's training responses: another processor, or other code, draws others."""
    found = commit_fingerprint(run / "sample", ("responses-*",))
    return None if found is None else found[:8]


def seed_folder(folder: Path, key: Sequence[Any]) -> Path:
    """Return the folder of the runs of a row's scorers and seed."""
    scorers, _, _, seed = key
    return folder / str(scorers) / str(seed)


def one_run(folder: Path, row: Row) -> dict[str, Any] | None:
    """Run one row over what its seed's runs before it have left; return what it gave, None if it broke."""
    _, method, dial, seed = row.key
    seeds = seed_folder(folder, row.key)
    name = method if dial is None else f"{method}-{dial:g}"
    command = [sys.executable, "-m", "cann_jax.train", "--config", str(row.config), "--export", "[]"]
    command += ["--run_dir", str(seeds), "--seed", str(seed), "--name", name, *row.flags]
    take_over(seeds, seeds / name, method)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    print(done.stderr[-3000:], file=sys.stderr, flush=True)
    refused = done.returncode == InfeasibleError.exit_status  # the margin is out of reach
    if done.returncode and not refused:
        return None
    keep(seeds / name, seeds, method)
    found = {"key": row.key, "fingerprint": row.fingerprint, "draw": drawn(seeds / name)}
    if refused:
        return found | {"refused": done.stderr.strip().splitlines()[-1]}
    return found | measured(json.loads((seeds / name / "evaluate/results.json").read_text()))


def take_over(seeds: Path, run: Path, method: str) -> None:
    """Copy into a run's folder what its seed's runs share; ``train`` redoes what does not fit."""
    clear(run)
    for stage, place in shared(seeds, method):
        if is_whole(place) and (not (run / stage).exists() or differs(stage, place, run / stage)):
            copy(place, run / stage)


def keep(run: Path, seeds: Path, method: str) -> None:
    """Drop what fills the disk of a finished run, and copy its shared stages to where the others find them.

    Samples, scores and experts that are not those of before take their place: what fitted no more.
    """
    for checkpoints in list(run.glob("**/checkpoints")):
        shutil.rmtree(checkpoints)
    clear(seeds / "shared")
    for stage, place in shared(seeds, method):
        if is_whole(run / stage) and (not is_whole(place) or differs(stage, place, run / stage)):
            copy(run / stage, place)


def shared(seeds: Path, method: str) -> list[tuple[str, Path]]:
    """Return what runs of a seed share, and where it is kept."""
    kept = [(stage, seeds / "shared" / stage) for stage in SHARED]
    return [*kept, ("experts", seeds / "shared" / f"experts-{method}")]


def is_whole(place: Path) -> bool:
    """Return whether there is a file, or the folder of a stage that has ended."""
    return place.is_file() or (place / MANIFEST).exists()


def differs(stage: str, one: Path, other: Path) -> bool:
    """Return whether two folders of a stage that runs have alike have other contents."""
    return stage in ALIKE and commit_fingerprint(one) != commit_fingerprint(other)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder in the place of what is there; a copy that is cut short has another name."""
    partial = target.with_name(target.name + PARTIAL)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    if source.is_dir():
        shutil.copytree(source, partial)
    else:
        shutil.copy2(source, partial)
    remove(target)
    partial.rename(target)


def clear(folder: Path) -> None:
    """Remove what copies that were cut short have left."""
    for partial in list(folder.glob(f"*{PARTIAL}")):
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a run's results."""
    summary = results["summary"]
    (name,) = set(results) - {"summary", "also", "reward"}
    return {
        "measured": results[name]["measured"],
        "interval": results[name]["interval"],
        "lower": results[name]["certificate"]["lower"],
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

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
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from contest import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "docs/images/asked_measured.png"
ROWS = RESULTS / "constraint.jsonl"
CONFIG = "configs/quickstart.yaml"
NAME = "relevance"
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


def drawn(row: Mapping[str, Any]) -> str:
    """Return what rows must have in common to be compared in pairs."""
    return f"{row['draw']}, {row['calibration']}" if "calibration" in row else str(row["draw"])


def write_report() -> None:
    """Write the tables and the picture of what is finished."""
    every = rows()
    variants = [name for name in VARIANTS if any(row["key"][0] == name for row in every)]
    draws = list(dict.fromkeys(map(drawn, every)))
    parts = ["# Asked against measured", __doc__.strip().splitlines()[0] if __doc__ else ""]
    if every:
        parts.append(f"Machine: {'; '.join(sorted({row['machine'] for row in every}))}. Intervals: 95 %.")
        parts += [DRAWS, "## One thing changed at a time", PAIRED, table(DIFFERENCES, differences(every))]
    for variant, hashed in itertools.product(variants, draws):
        own = sorted(
            (row for row in every if row["key"][0] == variant and drawn(row) == hashed),
            key=lambda row: row["key"][1:],
        )
        if own:
            parts += [
                f"## {variant}, draw {hashed}",
                f"`{' '.join(VARIANTS[variant]) or '--calibrate.aim margin'}`",
                table(HEADINGS, map(cells, own)),
                *summary(own),
            ]
    (RESULTS / "constraint.md").write_text("\n\n".join(parts) + "\n")
    draw(RESULTS / "constraint.png", every, variants)
    draw(README, every, ["base"])


# The folder of the first draw was lost with its machine, before rows had a hash.
DRAWS = (
    "Every row names the draw of samples and scores that it is of, by a hash of the responses; those of the "
    "first are not kept, and earlier code drew them. The other was drawn twice, on two days; `pairs` at seed "
    "1, run on both, gave the same numbers to the last digit. Rows *by log-probs* are the trainings of the "
    "other draw, calibrated and evaluated again when the calibration's estimate of a gain had become that of "
    "`cann_jax/core/improvement.py`. *certified* aims as the quickstart does, there by `calibrate.power` "
    ".98, in the first draw by .9."
)
PAIRED = (
    "A variant less the base of the same draw, margin and seed: mean ± standard error over the seeds. Both "
    "share the reference's draws; one seed tells nothing of the spread. The objective is reward − β·KL, what "
    "the method maximizes at the constraint."
)
DIFFERENCES = ("variant", "draw", "asked", "seeds", "measured", "reward", "KL", "objective", "scale")


def differences(every: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of the table of ``PAIRED``."""
    by_key = {(drawn(row), *row["key"]): dict(row) for row in every if "refused" not in row}
    beta = yaml.safe_load((ROOT / CONFIG).read_text())["dual"]["beta"]
    for row in by_key.values():
        row["objective"] = row["reward"] - beta * row["kl"]
    found: dict[tuple[str, str, float], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for (draw, variant, margin, seed), row in by_key.items():
        base = by_key.get((draw, "base", margin, seed))
        if variant != "base" and base is not None:
            found.setdefault((variant, draw, margin), []).append((row, base))
    return [
        [variant, draw, f"{margin:+.2f}", str(len(pairs))]
        + [
            change([row[name] - base[name] for row, base in pairs])
            for name in ("measured", "reward", "kl", "objective", "scale")
        ]
        for (variant, draw, margin), pairs in found.items()
    ]


def change(values: Sequence[float]) -> str:
    """Return the mean of differences, with its standard error where there are several."""
    mean = f"{np.mean(values):+.3f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


HEADINGS = (
    "asked", "seed", "λ", "forecast", "measured", "verdict", "scale", "KL", "reward", "within", "agrees", "s"
)  # fmt: skip


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of numbers."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---:|" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cells(row: dict[str, Any]) -> list[str]:
    _, margin, seed = row["key"]
    if "refused" in row:
        return [
            f"{margin:+.2f}",
            str(seed),
            "–",
            "–",
            "refused before training",
            *["–"] * 6,
            str(row["seconds"]),
        ]
    return [
        f"{margin:+.2f}",
        str(seed),
        f"{row['multiplier']:.2f}",
        "–" if row["predicted"] is None else f"{row['predicted']:+.3f} {span(row['predicted_interval'])}",
        f"{row['measured']:+.3f} {span(row['interval'])}",
        row["verdict"],
        f"{row['scale']:.2f}",
        f"{row['kl']:.2f}",
        f"{row['reward']:+.2f} {span(row['reward_interval'], 2)}",
        "yes" if within(row) else "no",
        "yes" if agrees(row) else "no",
        str(row["seconds"]),
    ]


def span(interval: Sequence[float], digits: int = 3) -> str:
    return f"[{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def within(row: dict[str, Any]) -> bool:
    """Whether the measured interval contains the margin, or lies above it by at most a quarter of it."""
    margin, (low, high) = row["key"][1], row["interval"]
    return bool(high >= margin and low <= 1.25 * margin)


def agrees(row: dict[str, Any]) -> bool:
    """Whether the 95 % interval of the difference of forecast and measurement contains 0."""
    if row["predicted"] is None:
        return False
    halves = [(high - low) / 2 for low, high in (row["interval"], row["predicted_interval"])]
    return bool(abs(row["measured"] - row["predicted"]) <= np.hypot(*halves))


def summary(own: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the targets ask of one variant."""
    done = [row for row in own if "refused" not in row]
    if not done:
        return []
    lines = [
        f"- within (the interval contains the margin, or lies above it by at most a quarter of it): "
        f"{sum(map(within, done))} of {len(done)}",
        f"- forecast agrees with the measurement: {sum(map(agrees, done))} of {len(done)}",
    ]
    for margin in sorted({row["key"][1] for row in done}):
        found = [row for row in done if row["key"][1] == margin]
        values = np.array([row["measured"] for row in found])
        gain = np.array([row["reward"] for row in found])
        lines.append(
            f"- asked {margin:+.2f}: mean of {len(found)} seeds {values.mean():+.3f} "
            f"({values.mean() / margin - 1:+.0%}), reward {gain.mean():+.2f}, "
            f"KL {np.mean([row['kl'] for row in found]):.2f}"
        )
    return ["\n".join(lines)]


def beside(row: Mapping[str, Any], kinds: Sequence[str]) -> float:
    """Return by how much a run's mark lies beside its margin."""
    return 0.0075 * (kinds.index(drawn(row)) - (len(kinds) - 1) / 2) + 0.0013 * (row["key"][2] - 2)


# Colours that the colour-blind tell apart.
MARKS = {"holds": ("#0072B2", "o"), "undecided": ("#999999", "s"), "fails": ("#D55E00", "X")}


def draw(path: Path, every: Sequence[dict[str, Any]], variants: Sequence[str]) -> None:
    """Draw measured against asked, a panel a variant: one mark a run, by its verdict, and the diagonal.

    The runs of one margin stand side by side, by draw and seed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not variants:
        return
    figure = Figure(figsize=(max(3.6 * len(variants) + 0.8, 6), 4.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(variants), squeeze=False, sharey=True)[0]
    kinds = list(dict.fromkeys(map(drawn, every)))
    for axis, variant in zip(axes, variants, strict=True):
        for verdict, (colour, marker) in MARKS.items():
            own = [row for row in every if row["key"][0] == variant and row.get("verdict") == verdict]
            x = np.array([row["key"][1] + beside(row, kinds) for row in own])
            y = np.array([row["measured"] for row in own])
            ends = np.array([row["interval"] for row in own]).reshape(-1, 2).T
            axis.errorbar(
                x, y, yerr=abs(ends - y), color=colour, marker=marker, linestyle="", elinewidth=1,
                markersize=5, label=verdict,
            )  # fmt: skip
        axis.plot([0.05, 0.3], [0.05, 0.3], color="0.4", linestyle=":")
        axis.set(xlabel=f"margin of {NAME} asked", xlim=(0.07, 0.28), ylim=(0, 0.36))
        if len(variants) > 1:
            axis.set_title(variant)
    axes[0].set_ylabel("measured on unseen prompts, 95 %")
    axes[0].legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()

"""Eight margins from one training of a dial, against one training for each margin.

    python benchmarks/dial.py [--margins 0.05,…] [--seeds 0,…] [--methods dial,trained]
        [--folder runs/dial] [--limit PROMPTS]

Every run is ``configs/quickstart.yaml`` with ``calibrate.aim: margin``. ``dial`` has ``align.dial: true`` and
one folder a seed, in which only the margin changes; ``trained`` has a folder for each margin and seed. The
samples and scores of seed 0 are shared by all: one draw, which each row names by a hash, because only rows of
one draw can be compared. The reference's draws of calibration and evaluation are shared by all runs of a
seed. Finished rows are kept in ``benchmarks/results/dial.jsonl``, so that the script goes on where it was
interrupted, and runs again what other settings or another draw gave; it also writes ``dial.md``. It has not
been timed at full size: a row of ``trained`` is a run of ``constraint.py``, about ten minutes on two cores,
and only the first row of ``dial`` trains. ``--limit`` takes fewer prompts of each set, to rehearse; its rows
go to ``--folder``.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from arguments import listed, one_of
from constraint import CONFIG, RESULTS, SEEDED, SHARED, draw_of, whole_run
from constraint_page import NAME, span, table, within
from contest import processor

METHODS = {"dial": ("--align.dial", "true"), "trained": ()}
MARGINS = (0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.23, 0.26)
# Stages whose seconds are compared: sampling and scoring, and the evaluation, are the same for both.
TRAINING, SETTING = ("experts", "align"), ("dual", "calibrate")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--margins", type=listed(float), default=list(MARGINS))
    parser.add_argument("--seeds", type=listed(int), default=[0])
    parser.add_argument("--methods", type=listed(one_of(METHODS)), default=list(METHODS))
    parser.add_argument("--folder", default="runs/dial")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "MARGIN", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    results = RESULTS if given.limit is None else Path(given.folder)
    results.mkdir(parents=True, exist_ok=True)
    if given.one:
        method, margin, seed = given.one
        return one_run(given.folder, results, given.limit, method, float(margin), int(seed))
    for seed, method, margin in itertools.product(given.seeds, given.methods, given.margins):
        key = [method, margin, seed]
        print(f"dial: {key}", flush=True)
        command = [sys.executable, __file__, "--folder", given.folder, "--one", *map(str, key)]
        command += [] if given.limit is None else ["--limit", str(given.limit)]
        if subprocess.run(command).returncode:  # the run says why; the others go on
            print(f"dial: {key} failed", flush=True)
        write_report(results)


def flags_of(folder: str, limit: int | None, name: str, seed: int) -> list[str]:
    """Return the flags that all runs have."""
    flags = ["--config", CONFIG, "--run_dir", folder, "--name", name, "--seed", str(seed)]
    flags += ["--calibrate.aim", "margin", "--export", "[]"]
    return flags if limit is None else [*flags, "--prompts.limit", str(limit)]


def one_run(folder: str, results: Path, limit: int | None, method: str, margin: float, seed: int) -> None:
    """Do one run, and append its row, if it is not there for these settings and this draw."""
    from cann_jax.command_line.run_options import parse_run
    from cann_jax.files.hashes import fingerprint_json
    from cann_jax.run.checks import check_stages, run_checked_stages
    from cann_jax.run.folder import open_folder
    from cann_jax.run.outputs import read_calibration, read_results
    from cann_jax.run.run import Run
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.session import session

    keep_compilations()
    shared = Run(parse_run(flags_of(folder, limit, "shared", 0))[0])
    name = f"dial-{seed}" if method == "dial" else f"{method}-{margin:g}-{seed}"
    own = (f"--constraints.{NAME}.margin", str(margin), *METHODS[method])
    run = Run(parse_run([*flags_of(folder, limit, name, seed), *own])[0])
    row = {"key": [method, margin, seed], "fingerprint": fingerprint_json([configured(), limit, own])[:8]}
    with session(run.config, run.config.batches()):
        with open_folder(shared.folder, shared.config, lambda: check_stages(shared, shared.stages)):
            run_checked_stages(shared, [stage for stage in shared.stages if stage.name in SHARED])
        row["draw"] = draw_of(shared)
        if any(row == {name: found.get(name) for name in row} for found in rows(results)):
            return
        stored = {each: Path(folder) / "seeded" / str(seed) / each for each in SEEDED}
        with open_folder(run.folder, run.config, lambda: check_stages(run, run.stages)):
            row |= whole_run(run, dict.fromkeys(SHARED, shared), stored)
    if "refused" not in row:
        summary = read_results(run)["summary"]
        row["multiplier"] = summary["multipliers"][NAME]  # as calibrated
        stages = summary["compute"]["stages"].items()  # None of what was copied from the shared run
        row["seconds"] = {name: each["seconds"] for name, each in stages if each is not None}
        row["linear"] = read_calibration(run).get("linear")
    row["machine"] = processor()
    with (results / "dial.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def configured() -> Any:
    """Return the content of the configuration, in which comments and order do not matter."""
    return yaml.safe_load(Path(CONFIG).read_text())


def rows(results: Path) -> list[dict[str, Any]]:
    """Return the finished rows."""
    path = results / "dial.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_report(results: Path) -> None:
    """Write the table and the totals of what is finished."""
    if every := rows(results):
        (results / "dial.md").write_text(report(every))


def report(finished: Sequence[dict[str, Any]]) -> str:
    """Return the page of these rows: the last of each draw and key."""
    every = list({(row["draw"], *row["key"]): row for row in finished}.values())
    parts = [
        "# One training for every margin",
        "Margins of the quickstart from one training of `align.dial`, against one training for each margin: "
        "`python benchmarks/dial.py`. Asked and measured are of the constraint `relevance`, on unseen "
        "prompts. Every row names the draw of samples and scores that it is of, by a hash of the responses.",
        f"Machine: {'; '.join(sorted({row['machine'] for row in every}))}. Intervals: 95 %.",
    ]
    draws = list(dict.fromkeys(row["draw"] for row in every))
    for method, hashed in itertools.product(METHODS, draws):
        found = [row for row in every if row["key"][0] == method and row["draw"] == hashed]
        own = sorted(found, key=lambda row: row["key"][1:])
        if own:
            flags = " ".join(METHODS[method]) or "--align.dial false"
            parts += [f"## {method}, draw {hashed}", f"`{flags}`"]
            parts += [table(HEADINGS, map(cells, own)), *summary(own)]
    costs = [text for hashed in draws for text in ratio(hashed, every)]
    return "\n\n".join([*parts, *(["## Cost"] if costs else []), *costs]) + "\n"


HEADINGS = ("asked", "seed", "λ", "measured", "within", "scale", "KL", "reward", "training, s", "setting, s")


def cells(row: dict[str, Any]) -> list[str]:
    _, margin, seed = row["key"]
    if "refused" in row:
        return [f"{margin:+.2f}", str(seed), "–", "refused before training", *["–"] * 6]
    return [
        f"{margin:+.2f}",
        str(seed),
        f"{row['multiplier']:.2f}",
        f"{row['measured']:+.3f} {span(row['interval'])}",
        "yes" if within(row) else "no",
        f"{row['scale']:.2f}",
        f"{row['kl']:.2f}",
        f"{row['reward']:+.2f} {span(row['reward_interval'], 2)}",
        f"{spent(row, TRAINING):.0f}",
        f"{spent(row, SETTING):.0f}",
    ]


def spent(row: dict[str, Any], stages: Sequence[str]) -> float:
    return float(sum(row["seconds"].get(name, 0.0) for name in stages))


def summary(own: Sequence[dict[str, Any]]) -> list[str]:
    """Return error and reward over one method's margins, and how far weights do what log-probs would."""
    done = [row for row in own if "refused" not in row]
    if not done:
        return []
    error = np.mean([abs(row["measured"] - row["key"][1]) for row in done])
    lines = [
        f"- mean error of the constraint, |measured − asked|: {error:.3f}; within: "
        f"{sum(map(within, done))} of {len(done)}",
        f"- mean reward {np.mean([row['reward'] for row in done]):+.2f}, mean KL "
        f"{np.mean([row['kl'] for row in done]):.2f} nats",
    ]
    for what in ("log_ratios", "log_probs"):
        found = [row["linear"][what] for row in done if (row.get("linear") or {}).get(what)]
        if found:
            low, high = (f([each["slope"] for each in found]) for f in (min, max))
            lines.append(
                f"- added weights against added {what.replace('_', '-')}: correlation "
                f"{min(each['correlation'] for each in found):.3f} or more, slope {low:.2f} to {high:.2f}"
            )
    return ["\n".join(lines)]


def ratio(hashed: str, every: Sequence[dict[str, Any]]) -> list[str]:
    """Return the cost of all margins that both methods have of a draw, a dial's training counted once."""
    done = {tuple(row["key"]): row for row in every if row["draw"] == hashed and "refused" not in row}
    shared = [key[1:] for key in done if key[0] == "dial" and ("trained", *key[1:]) in done]
    if not shared:
        return []
    trainings = {seed: spent(done["dial", margin, seed], TRAINING) for margin, seed in shared}
    cost = {
        "dial": sum(trainings.values()) + sum(spent(done["dial", *key], SETTING) for key in shared),
        "trained": sum(spent(done["trained", *key], TRAINING + SETTING) for key in shared),
    }
    text = (
        f"Draw {hashed}: {len(shared)} margins and seeds that both have, from scores to a calibrated policy: "
        f"{cost['dial']:.0f} s by the dial, {cost['trained']:.0f} s by a training each, "
        f"a ratio of {cost['dial'] / cost['trained']:.2f}."
    )
    return [text]


if __name__ == "__main__":
    main()

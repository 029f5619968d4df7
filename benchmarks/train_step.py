"""Compare our preference step with TRL's and Tunix's: seconds, memory, and the DPO loss and its gradient.

    python benchmarks/train_step.py --peers FOLDER            everything; a run cut short continues
    python benchmarks/train_step.py --peers FOLDER --next     one missing measurement, of some minutes
    python benchmarks/train_step.py --peers FOLDER --page     the page, from what was measured

FOLDER gets an environment of its own for each peer (``--find-links`` is pip's: where a wheel of torch for
CPUs lies), the model, and measured.jsonl. Every contestant of a round is a process of its own, so that none
has another's memory. The page fails if losses or gradients are further apart than PARITY.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from contest import machine
from safetensors.numpy import load_file

from cann_jax.models.files.model_files import open_model
from cann_jax.models.flops import Row, training_flops

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/train_step.md"
MODEL, PAIRS = "embedded:smollm2-135m-instruct", 8
PEERS = {"trl": ("trl", "transformers", "peft", "torch"), "tunix": ("google-tunix",)}
PARITY = 1e-4  # float32: 576 products a sum, 30 layers, log-probs of hundreds of nats
BASE = "TRL float32"
BFLOAT16 = ("--dtype", "bfloat16")
CONTESTANTS = {
    "cann_jax float32, elementwise": ("our", "--rematerialise", "elementwise"),
    "cann_jax float32, everything": ("our", "--rematerialise", "everything"),
    "cann_jax bfloat16, elementwise": ("our", "--rematerialise", "elementwise", *BFLOAT16),
    "cann_jax bfloat16, everything": ("our", "--rematerialise", "everything", *BFLOAT16),
    BASE: ("trl",),
    "TRL float32, checkpointing": ("trl", "--checkpointing"),
    "TRL bfloat16": ("trl", *BFLOAT16),
    "TRL bfloat16, checkpointing": ("trl", *BFLOAT16, "--checkpointing"),
    "TRL autocast to bfloat16": ("trl", "--dtype", "autocast"),
    "Tunix float32": ("tunix",),
    "Tunix bfloat16": ("tunix", *BFLOAT16),
}
TUNIX = [name for name in CONTESTANTS if name.startswith("Tunix")]
NOTES = """\
SmolLM2-135M-Instruct, DPO, 8 pairs of random ids a step, LoRA of rank 8 on all seven projections, AdamW,
log-probs of the reference computed before. Seconds are the median over all rounds, after one step in each
that is not timed; contestants in turn, each in a process of its own, whose peak memory includes
compilation. Processor seconds, the least of the steps, say what a step costs where others use the machine
too: the clock then depends on them, and threads that wait for each other spin (`OMP_WAIT_POLICY=passive`
lets those of torch sleep). "elementwise" and "everything" are what `rematerialise` computes again in the
backward pass; TRL's checkpointing is the latter. TRL's bfloat16 has frozen weights in bfloat16 under
autocast; "autocast" keeps them in float32. TRL 1.16 has no padding-free DPO (it warns and pads); no
sequence of the first two shapes needs padding. Mixed pairs are 48, of 16 to 512 tokens a prompt or a
response (log-normal, median 90); a measurement is the mean over all six steps of them: ours in the rows,
order and widths that a run gives them, TRL's one pair at a time, eight to a step, so that only a pair is
padded. TRL also computes entropies and accuracies of all tokens for its log."""
RATES = """\
Operations are those of docs/metrics.md; the peers' rows hold a prompt twice, ours once. The share is that
of a step whose processor seconds are spread over all cores, of the best rate of a plain product in that
dtype, 2,048 × 576 by 576 × 1,536, by JAX or torch:"""
CORES = os.cpu_count() or 1
SHAPES = {
    "128-64": "prompt 128, responses 64",
    "32-48": "prompt 32, responses 48",
    "mixed": "16 to 512 tokens, log-normal",
}
Measured = dict[str, Any]
Turn = tuple[int, str, str]  # round, pairs, contestant


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--torch", default="torch", help="what pip installs; torch==2.13.0+cpu has no CUDA")
    parser.add_argument("--find-links", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", default="3", help="timed in a round")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--pairs", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--note", default="", help="what the page says about the conditions of this run")
    parser.add_argument("--next", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    folder = given.peers.resolve()
    if not given.page:
        install(folder, given.find_links, given.torch)
        for turn in missing(folder, given)[: 1 if given.next else None]:
            measure(folder, turn, given.steps)
        if given.next:
            return
    RESULTS.write_text(page(folder, given.note) + "\n")
    print(RESULTS.read_text())


def install(folder: Path, find_links: str, torch: str) -> None:
    """Make the environments and what all contestants read, where they are not there yet."""
    for peer, packages in PEERS.items():
        python, versions = folder / peer / "bin/python", folder / f"{peer}.json"
        if versions.exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", folder / peer], check=True)
        links = ["--find-links", find_links] if find_links else []
        wanted = [torch if package == "torch" else package for package in packages]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *links, *wanted], check=True)
        command: list[str | Path] = [python, "-m", "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        found = {each["name"]: each["version"] for each in listed if each["name"] in packages}
        versions.write_text(json.dumps(found))
    if not (folder / "mixed.npz").exists():
        run(folder, "our", "prepare")


def missing(folder: Path, given: argparse.Namespace) -> list[Turn]:
    """Return what remains to be measured, in turn; "parity" is of round 0 and of the shorter pairs."""
    done = {(row["round"], row["pairs"], row["name"]) for row in measured(folder)}
    turns = [(0, "32-48", "parity")]
    turns += itertools.product(range(1, given.rounds + 1), given.pairs, given.only)
    # Tunix pads everything to one length that is given beforehand.
    never = {("mixed", name) for name in TUNIX}
    return [turn for turn in turns if turn not in done and turn[1:] not in never]


def measured(folder: Path) -> list[Measured]:
    path = folder / "measured.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(folder: Path, turn: Turn, steps: str) -> None:
    number, pairs, name = turn
    options = "--pairs", pairs
    if name == "parity":
        found = compare(
            folder, run(folder, "our", "parity", *options), run(folder, "trl", "parity", *options)
        )
    else:
        side, *more = CONTESTANTS[name]
        found = run(folder, side, "step", *options, "--steps", steps, *more)
    line = json.dumps({"round": number, "pairs": pairs, "name": name, **found})
    print(line, flush=True)
    with (folder / "measured.jsonl").open("a") as file:
        file.write(line + "\n")


def run(folder: Path, side: str, what: str, *options: str) -> Measured:
    """Return what a script of one side prints, a line of JSON."""
    python = sys.executable if side == "our" else folder / side / "bin/python"
    script = HERE / f"peers/{side}_step.py"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")} if side == "our" else {}
    settings = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", **cache}
    command = [python, script, what, folder, *options]
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(folder: Path, ours: Measured, theirs: Measured) -> Measured:
    """Return both losses, and how far the gradients are apart, of the largest entry of each weight's."""
    mine = load_file(folder / "our_gradient/adapter_model.safetensors")
    other = load_file(folder / "trl_gradient.safetensors")
    assert mine.keys() == other.keys(), "the adapters are not on the same layers"
    apart = {name: np.abs(mine[name] - other[name]).max() / np.abs(other[name]).max() for name in mine}
    pairs = [(np.linalg.norm(mine[name] - other[name]), np.linalg.norm(other[name])) for name in mine]
    difference, whole = np.linalg.norm(np.array(pairs), axis=0)
    return {
        "ours": ours["loss"],
        "TRL": theirs["loss"],
        "loss": abs(ours["loss"] / theirs["loss"] - 1),
        "worst": max(apart, key=lambda name: apart[name]),
        "gradient": float(max(apart.values())),
        "whole": float(difference / whole),
        "weights": len(apart),
    }


def page(folder: Path, note: str) -> str:
    rows = measured(folder)
    versions = {name: found for peer in PEERS for name, found in read(folder / f"{peer}.json").items()}
    steps = [row for row in rows if row["name"] != "parity"]
    compared = [
        pairs for pairs in SHAPES if any((row["name"], row["pairs"]) == (BASE, pairs) for row in steps)
    ]
    parts = [
        "# The preference step against TRL and Tunix",
        "    python benchmarks/train_step.py --peers FOLDER",
        f"{machine('jax')[:-1]}, {', '.join(f'{name} {found}' for name, found in versions.items())}.",
        f"{NOTES} {note}".strip(),
        *(table(folder, pairs, steps) for pairs in compared),
        f"{RATES} {rates(steps)}.",
        "## The same loss and gradient",
        agreement(next(row for row in rows if row["name"] == "parity")),
    ]
    return "\n\n".join(parts)


def read(path: Path) -> Measured:
    return dict(json.loads(path.read_text()))


def agreement(found: Measured) -> str:
    """Return the comparison in words.

    Raises:
        SystemExit: The sides do not agree.
    """
    if max(found["loss"], found["gradient"]) > PARITY:
        raise SystemExit(f"losses or gradients differ by more than {PARITY:g}: {found}")
    return "\n".join(
        [
            "One batch (prompt 32, responses 48), float32, one adapter with B ≠ 0, the reference without it.",
            f"- Loss: {found['ours']:.7f} here, {found['TRL']:.7f} from `DPOTrainer.compute_loss`; relative "
            f"difference {found['loss']:.1e}.",
            f"- Gradient on the {found['weights']} LoRA weights: no entry differs by more than "
            f"{found['gradient']:.1e} of the largest of its weight (`{short(found['worst'])}`); all together "
            f"differ by {found['whole']:.1e} of the norm.",
            f"- The script fails above {PARITY:g}.",
        ]
    )


def short(name: str) -> str:
    return name.removeprefix("base_model.model.model.").removesuffix(".weight")


def table(folder: Path, pairs: str, everything: list[Measured]) -> str:
    """Return the table of one shape, with ratios to TRL in float32, and a line with that to the best peer."""
    steps = [row for row in everything if row["pairs"] == pairs]
    lines = [
        f"| {SHAPES[pairs]} | s a step | least and most | steps | speed of {BASE} | "
        "processor s | speed by these | peak, GB | TFLOP | of a product |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    seconds, cpu = times(steps, "seconds"), times(steps, "cpu")
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    works = {name: min(found) for name, found in cpu.items()}
    for name, median in medians.items():
        peak = max(row["peak_gb"] for row in steps if row["name"] == name)
        flops = operations(folder / f"{pairs}.npz", packed=is_ours(name))
        share = flops * CORES / works[name] / best_rate(everything, "float32" in name)
        lines.append(
            f"| {name} | {median:.2f} | {min(seconds[name]):.2f} to {max(seconds[name]):.2f} | "
            f"{len(seconds[name])} | {medians[BASE] / median:.2f}× | {works[name]:.2f} | "
            f"{works[BASE] / works[name]:.2f}× | {peak:.2f} | {flops / 1e12:.2f} | {share:.0%} |"
        )
    ours = min(filter(is_ours, works), key=lambda name: works[name])
    for peer in ("TRL", "Tunix"):
        theirs = [name for name in works if name.startswith(peer)]
        if theirs:
            best = min(theirs, key=lambda name: works[name])
            ratio = works[best] / works[ours]
            lines += [
                "",
                f"{ours}: {ratio:.2f} times as fast as {peer}'s best, {best}, by processor seconds.",
            ]
    return "\n".join(lines)


def times(steps: list[Measured], kind: str) -> dict[str, list[float]]:
    """Return the times of every step of each contestant that was measured."""
    found = {name: [t for row in steps if row["name"] == name for t in row[kind]] for name in CONTESTANTS}
    return {name: values for name, values in found.items() if values}


def is_ours(name: str) -> bool:
    return name.startswith("cann_jax")


def operations(pairs: Path, *, packed: bool) -> float:
    """Return the mean operations of a step; packed rows hold a prompt and both its responses."""
    shape, arrays = open_model(MODEL).config, np.load(pairs)
    prompts, responses = arrays["prompt_lengths"], arrays["response_lengths"].astype(float)
    predicted = responses.sum(1, keepdims=True) if packed else responses
    rows = [Row(n + each, each) for n, ours in zip(prompts, predicted, strict=True) for each in ours]
    return sum(training_flops(shape, row, all_weights=False) for row in rows) * PAIRS / len(prompts)


def best_rate(steps: list[Measured], float32: bool) -> float:
    return float(max(row.get("rate", 0.0) for row in steps if ("float32" in row["name"]) is float32))


def rates(steps: list[Measured]) -> str:
    found = {"float32": best_rate(steps, True), "bfloat16": best_rate(steps, False)}
    return ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in found.items())


if __name__ == "__main__":
    main()

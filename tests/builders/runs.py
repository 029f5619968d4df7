"""A whole run on a tiny random model: real stages, small numbers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import yaml

from tests.builders import ROOT
from tests.builders.preferences import pku_row, telling_rows, write_lines
from tests.builders.processes import environment

STAGES = ("sample", "score", "dual", "align", "evaluate", "export")  # without preference data

BETA, REWARD_BETA, SAFER_BETA = 0.3, 0.2, 0.1  # of the dual, and of the two pre-aligned models


def write_prompts(path: Path, count: int, word: str) -> str:
    rows = [{"prompt": f"{word} {n}", "group": "even" if n % 2 == 0 else "odd"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_config(folder: Path, model: Path, **changes) -> str:
    """A configuration with two constraints, one of a group's; 5 prompts a step leave a partial last batch."""
    toy = "tests.builders.toy_scorers"
    values = {
        "name": "tiny",
        "run_dir": str(folder / "runs"),
        "model": {"path": str(model)},
        "prompts": {
            "train": write_prompts(folder / "train.jsonl", 12, "Tell me about"),
            "heldout": write_prompts(folder / "heldout.jsonl", 6, "Explain"),
            "on_overlong": "error",
            "max_tokens": 64,
        },
        "sample": {"responses": 4, "max_new_tokens": 8, "prompts_per_batch": 4},
        "reward": {"scorer": {"kind": "relevance"}},
        "constraints": {
            "vowels": {
                "scorer": {"kind": "function", "function": f"{toy}:vowels", "better": "higher"},
                "margin": 0.02,
            },
            "length": {
                "scorer": {"kind": "function", "function": f"{toy}:length", "better": "lower"},
                "margin": 0.2,
                "group": "even",
            },
        },
        "dual": {"beta": 1.0},
        "align": {
            "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
            "epochs": 2,
            "prompts_per_step": 5,
            "vocabulary_chunks": 2,
            "checkpoint_every": 2,
            "heldout_prompts": 1,
        },
        "evaluate": {"responses": 2, "bootstrap": 100, "examples": 3},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def calibrated_changes(folder: Path) -> dict[str, Any]:
    """What makes of that configuration a run that forecasts, scales its step and exports the adapter."""
    vowels = {"kind": "function", "function": "tests.builders.toy_scorers:vowels", "better": "higher"}
    return {
        "prompts": {
            "train": write_prompts(folder / "train_prompts.jsonl", 40, "Tell me about"),
            "calibration": write_prompts(folder / "calibration_prompts.jsonl", 6, "Describe"),
            "heldout": write_prompts(folder / "heldout.jsonl", 6, "Explain"),
            "on_overlong": "error",
            "max_tokens": 64,
        },
        # The random model's features tell relevance (.36), and nothing of vowels.
        "reward": {"scorer": vowels},
        "constraints": {"relevance": {"scorer": {"kind": "relevance"}, "margin": 0.01}},
        "dual": {"beta": 0.3, "multipliers": "attainable", "folds": 4},
        "align": {
            "loss": "listwise",
            "labels": "denoised",
            "group_size": 4,
            "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
            "prompts_per_step": 4,
            "checkpoint_every": 2,
        },
        "calibrate": {"aim": "margin", "responses": 2, "tries": 2},
    }


def implicit(beta: float, **source: str) -> dict[str, Any]:
    """Settings of a scorer whose pre-aligned model comes from ``source``."""
    return {"kind": "implicit", "beta": beta, "prealigned": source}


def prealigned_changes(folder: Path) -> dict[str, Any]:
    """What makes of that configuration the whole of PeCAN: π_r and π_g are trained inside the run."""
    section = {"dataset": "local", "on_overlong": "error", "prepared": str(folder / "prepared")}
    section["path"] = str(write_lines(folder / "own.jsonl", [pku_row(n) for n in range(30)]))
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 1}
    return {
        "reward": {"scorer": implicit(REWARD_BETA, preference="better")},
        "constraints": {"safe": {"scorer": implicit(SAFER_BETA, preference="safer"), "margin": 0.02}},
        "dual": {"beta": BETA},
        "preferences": section,
        "prealign": {"optimizer": optimizer, "pairs_per_step": 4, "checkpoint_every": 3},
    }


def write_score_model_config(folder: Path, model: Path, **changes: Any) -> str:
    """A configuration of ``cann_jax.reward`` with 60 pairs that a tiny model can tell apart."""
    values = {
        "name": "judge",
        "run_dir": str(folder / "runs"),
        "model": {"path": str(model)},
        "preferences": {
            "dataset": "local",
            "on_overlong": "error",
            "path": str(write_lines(folder / "own.jsonl", telling_rows(60))),
            "prepared": str(folder / "prepared"),
            "heldout": 0.3,
        },
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj", "down_proj"]},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.0},
        "epochs": 4,
        "pairs_per_step": 8,
        "accumulation": 2,
        "export": "hf",
    }
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that the stage ``align`` of the run in ``folder`` logged."""
    lines = (folder / "runs/tiny/align/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def saved_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights that a training saved in ``folder``, by path, wherever the devices were."""
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(folder).item_metadata.tree
        here = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), saved)
        leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder, here))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def command(config: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "cann_jax.train", "--config", config, *flags]


def run_process(config: str, *flags: str) -> subprocess.CompletedProcess:
    """The command as a user gives it."""
    given = environment()
    return subprocess.run(command(config, *flags), cwd=ROOT, env=given, capture_output=True, text=True)

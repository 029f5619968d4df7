"""A reward model's training on pairs that a tiny random model can tell apart."""

from pathlib import Path

import yaml

from tests.builders.preferences import pku_row, write_lines


def rows(count: int) -> list[dict]:
    """The better response says "good" and is safe, the other says "bad" and is not; sides alternate."""
    found = []
    for n in range(count):
        side = n % 2
        texts = {f"response_{side}": f"good good {n}", f"response_{1 - side}": f"bad bad {n}"}
        safe = {f"is_response_{side}_safe": True, f"is_response_{1 - side}_safe": False}
        found.append(pku_row(n, better_response_id=side, safer_response_id=side, **texts, **safe))
    return found


def write_judge(folder: Path, model: Path, **changes) -> str:
    """A configuration that trains on 60 pairs."""
    values = {
        "name": "judge",
        "run_dir": str(folder / "runs"),
        "model": {"path": str(model)},
        "preferences": {
            "dataset": "local",
            "on_overlong": "error",
            "path": str(write_lines(folder / "own.jsonl", rows(60))),
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

"""Dry runs on files that are not as they should be: exit status 0, or 2 and one line; never a traceback.

``INPUT_EXAMPLES=500`` tries that many.
"""

import contextlib
import io
import os
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import yaml

from cann_jax import reward, train
from cann_jax.command_line.errors import run_command
from cann_jax.dry_run import output
from cann_jax.runtime.memory import Held
from tests.builders import ROOT
from tests.builders.models import save_tiny
from tests.builders.mutations import (
    Change,
    changed_json,
    changed_lines,
    changed_safetensors,
    changed_template,
    changed_yaml,
)
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import write_config

EXAMPLES = int(os.environ.get("INPUT_EXAMPLES", "36"))
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
ASKED = [*CHAT, {"role": "user", "content": "Tell me."}]
# By kind: the files, how they are changed, and the commands that read them.
KINDS: dict[str, tuple[tuple[str, ...], Change, tuple[str, ...]]] = {
    "configuration": (("train.yaml",), changed_yaml, ("train",)),
    "configuration of a score model": (("reward.yaml",), changed_yaml, ("reward",)),
    "prompts": (("train.jsonl", "heldout.jsonl"), changed_lines, ("train",)),
    "preferences": (("pairs.jsonl",), changed_lines, ("train", "reward")),
    "config.json": (("model/config.json",), changed_json, ("train", "reward")),
    "generation_config.json": (("model/generation_config.json",), changed_json, ("train", "reward")),
    "tokenizer": (("model/tokenizer.json", "model/tokenizer_config.json"), changed_json, ("train", "reward")),
    "chat template": (("model/chat_template.jinja",), changed_template, ("train", "reward")),
    "safetensors": (("model/model.safetensors",), changed_safetensors, ("train", "reward")),
}
MAINS = {"train": train.main, "reward": reward.main}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the inputs of both commands, as they should be."""
    folder = tmp_path_factory.mktemp("whole")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = save_tiny(folder / "model", **sizes)
    rows = [pku_row(n) for n in range(12)]
    rows += [{"prompt": ASKED, "chosen": f"Yes {n}", "rejected": CHAT[1:]} for n in range(4)]
    rows += [
        {"chosen": [*ASKED, CHAT[1]], "rejected": [*ASKED, {**CHAT[1], "content": f"No {n}"}]}
        for n in range(4)
    ]
    write_lines(folder / "pairs.jsonl", rows)
    preferences = {"dataset": "local", "path": "pairs.jsonl", "on_overlong": "error", "prepared": "prepared"}
    one = {"lora": {"rank": 1, "alpha": 1}, "optimizer": {"warmup_steps": 0}}
    values = yaml.safe_load(Path(write_config(folder, model)).read_text())
    values |= {"run_dir": "runs", "model": {"path": "model"}, "preferences": preferences}
    values["prompts"] |= {"train": "train.jsonl", "heldout": "heldout.jsonl"}
    values["constraints"]["safe"] = {
        "scorer": {"kind": "implicit", "beta": 0.1, "prealigned": {"preference": "safer"}}, "margin": 0.1,
    }  # fmt: skip
    values["evaluate"]["also"] = {"asked": {"kind": "judge", "template": "helpful_v1"}}
    values |= {"prealign": {**one, "pairs_per_step": 2, "heldout_prompts": 1}}
    (folder / "train.yaml").write_text(yaml.safe_dump(values))
    score = {
        "name": "score",
        "run_dir": "runs",
        "model": {"path": "model"},
        "preferences": preferences,
        **one,
    }
    (folder / "reward.yaml").write_text(yaml.safe_dump(score | {"pairs_per_step": 2}))
    return folder


def ended(command: str) -> tuple[int, str, str]:
    """Run a dry run in the working folder; return its exit status, its errors, and the traceback if one."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", [command, "--config", f"{command}.yaml", "--dry_run"])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                status = run_command(MAINS[command])
        except BaseException:
            return 1, said.getvalue(), traceback.format_exc()
    return status, said.getvalue(), ""


def fault(command: str) -> str:
    """Return what is wrong with how a dry run ended; empty if nothing."""
    status, said, trace = ended(command)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if trace or (status, len(lines)) not in {(0, 0), (2, 1)} or "Traceback" in said:
        return f"status {status}: {said[-500:]}{trace[-3000:]}"
    return "" if all(len(line) < 900 for line in lines) else f"a long line: {lines[0][:1500]}"


def test_the_files_as_they_are(whole, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(whole)
    assert [ended(command)[:1] for command in MAINS] == [(0,), (0,)]


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files(kind, whole, tmp_path, monkeypatch):
    files, change, commands = KINDS[kind]
    monkeypatch.syspath_prepend(str(ROOT))
    # Traced programs are not compiled: XLA takes 10 s, reads no input and is tried by the test above.
    monkeypatch.setattr(output, "_held", lambda program: Held(0, 0, 0, 0))
    faults = {}
    for seed in range(-(-EXAMPLES // len(KINDS))):
        rng, folder = np.random.default_rng([*kind.encode(), seed]), tmp_path / str(seed)
        shutil.copytree(whole, folder)
        path = folder / files[seed % len(files)]
        path.write_bytes(change(path.read_bytes(), rng))
        monkeypatch.chdir(folder)
        if found := fault(commands[seed // len(files) % len(commands)]):
            faults[seed] = found
        monkeypatch.chdir(whole)
        shutil.rmtree(folder)
    print("\n".join(f"=== {kind}, seed {seed}\n{found}" for seed, found in faults.items()))
    assert not faults

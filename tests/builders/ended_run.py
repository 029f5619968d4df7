"""A configuration in which every section is used, and a run folder in which every stage has ended."""

import json
from pathlib import Path

import yaml

from cann_jax.command_line.run_options import parse_run
from cann_jax.run.execution import expected_of
from cann_jax.run.manifest import begin, commit
from cann_jax.run.pipeline import Stage
from cann_jax.run.run import Run
from cann_jax.run.stages import holding
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import implicit, write_config, write_prompts


def whole_config(folder: Path, model: Path, *flags: str) -> Run:
    """Return a run with preference pairs, pre-alignment, calibration, rounds, groups, and `also`."""
    write_config(folder, model)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    last = pku_row(29, response_0=..., response_1=...)  # chosen, so that preferences.chosen_is says something
    last |= {"chosen": pku_row(29)["response_0"], "rejected": pku_row(29)["response_1"]}
    pairs = write_lines(folder / "own.jsonl", [*(pku_row(n) for n in range(29)), last])
    values["preferences"] = {"dataset": "local", "on_overlong": "error", "path": str(pairs)}
    values["preferences"]["prepared"] = str(folder / "prepared")
    values["reward"] = {"scorer": implicit(0.2, preference="better")}
    values["evaluate"]["also"] = {"safe": implicit(0.1, preference="safer")}
    values["prompts"]["calibration"] = write_prompts(folder / "calibration.jsonl", 6, "Describe")
    values["rounds"] = 2
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return Run(parse_run(["--config", str(folder / "tiny.yaml"), *flags])[0])


def end_every_stage(run: Run) -> None:
    """Leave each stage's folder as a finished run leaves it, with made-up files as outputs."""
    for stage in run.stages:
        end_stage(run, stage)


def end_stage(run: Run, stage: Stage, content: str = "made up") -> None:
    """Leave a stage's folder so."""
    folder, expected = run.folder / stage.name, expected_of(run, stage)
    begin(folder, expected)
    writes = holding(stage.writes, run.config)
    for pattern in writes:
        path = folder / pattern.replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"stage": stage.name, "file": pattern, "content": content}))
    commit(folder, expected, writes)

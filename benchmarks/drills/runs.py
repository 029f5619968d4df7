"""Runs to drill on: tiny random models through every stage that a run can have, once undisturbed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cann_jax.command_line.run_options import parse_run, parse_score_model
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.run.run import Run, ScoreModelRun
from tests.builders import ROOT
from tests.builders.models import save_tiny
from tests.builders.processes import environment, free_port
from tests.builders.runs import (
    calibrated_changes,
    prealigned_changes,
    write_config,
    write_prompts,
    write_score_model_config,
)

HEARTBEAT = 10
TOGETHER = ("--mesh.fsdp", "2", "--distributed.heartbeat_timeout_seconds", str(HEARTBEAT))
MODULES = {"cann_jax.train": (parse_run, Run), "cann_jax.reward": (parse_score_model, ScoreModelRun)}


@dataclass(frozen=True)
class Drilled:
    """A run, finished once and cut short again and again in copies.

    Args:
        folder: Where all of it lies.
        argv: Flags of its command, without the folder that it runs in.
        module: The command.
        processes: Of the run.
    """

    folder: Path
    argv: tuple[str, ...]
    module: str = "cann_jax.train"
    processes: int = 1

    @property
    def stages(self) -> list[str]:
        """The stages that the run has."""
        parse, kind = MODULES[self.module]
        return [stage.name for stage in kind(parse(list(self.argv))[0]).stages]

    @property
    def whole(self) -> Path:
        """The folder of the undisturbed run, which is made at first use."""
        folder = self.folder / "runs" / self.name
        if not (self.folder / "whole.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            began = time.monotonic()
            with processor() as spent:
                check(self, run(self, folder.parent))
            values = {"seconds": time.monotonic() - began, "processor": spent[0]}
            (self.folder / "whole.json").write_text(json.dumps(values))
            print(f"{self.folder.name}: undisturbed: {values['seconds']:.0f} s", flush=True)
        return folder

    @property
    def name(self) -> str:
        """The run's name in its configuration."""
        parse, _ = MODULES[self.module]
        return parse(list(self.argv))[0].name

    def cut(self, stage: str) -> Path:
        """Return a copy of the undisturbed run without this stage and all behind it."""
        folder = self.folder / "cut" / self.name
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(self.whole, folder)
        for name in self.stages[self.stages.index(stage) :]:
            shutil.rmtree(folder / name)
        return folder

    def only(self, stage: str) -> tuple[str, ...]:
        """Return the flags that run one stage; ``cann_jax.reward`` has none, and its training is the last."""
        return ("--stages", stage) if self.module == "cann_jax.train" else ()

    def undisturbed(self, stage: str) -> dict[str, float]:
        """Return the seconds within a stage, and the processor seconds of its run and of a start alone."""
        path = self.folder / f"undisturbed-{stage}.json"
        if not path.exists():
            folder = self.cut(stage)
            spent = {}
            for what in ("stage", "start"):  # the second finds the stage done
                with processor() as seconds:
                    check(self, run(self, folder.parent, *self.only(stage)))
                spent[what] = seconds[0]
            path.write_text(json.dumps({"seconds": seconds_of(folder / stage), **spent}))
        return dict(json.loads(path.read_text()))


def drilled(work: Path) -> dict[str, Drilled]:
    """Write models, data and configurations; return the runs by name."""
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not model.exists():
        save_tiny(model)
    folders = {
        name: work / name for name in ("calibrated", "prealigned", "stepwise", "score_model", "together")
    }
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return {
        "calibrated": Drilled(folders["calibrated"], _calibrated(folders["calibrated"], model)),
        "prealigned": Drilled(folders["prealigned"], _prealigned(folders["prealigned"], model)),
        "stepwise": Drilled(
            folders["stepwise"],
            ("--config", write_config(folders["stepwise"], model), "--align.combination", "sequence"),
        ),
        "score_model": Drilled(
            folders["score_model"],
            ("--config", write_score_model_config(folders["score_model"], model)),
            "cann_jax.reward",
        ),
        "together": Drilled(
            folders["together"], (*_calibrated(folders["together"], model), *TOGETHER), processes=2
        ),
    }


def _calibrated(folder: Path, model: Path) -> tuple[str, ...]:
    changes = calibrated_changes(folder)
    online = {"responses": changes["align"]["group_size"], "prompts": 12}
    config = write_config(folder, model, **changes, rounds=2, online=online)
    # Enough that no stage is a single shard.
    write_prompts(folder / "calibration_prompts.jsonl", 12, "Describe")
    write_prompts(folder / "heldout.jsonl", 12, "Explain")
    return "--config", config


def _prealigned(folder: Path, model: Path) -> tuple[str, ...]:
    return "--config", write_config(folder, model, **prealigned_changes(folder)), "--align.pairs", "dataset"


def seconds_of(stage: Path) -> float:
    """Return the seconds from a finished stage's start to its commit."""
    begun, ended = ((stage / f"{name}.json").stat().st_mtime for name in ("settings", "manifest"))
    return ended - begun


def version() -> str:
    """Return a name of the package's code: an undisturbed run of other code is nothing to compare with."""
    package = ROOT / "cann_jax"
    code = {str(path.relative_to(package)): fingerprint_file(path) for path in package.rglob("*.py")}
    return fingerprint_json(code)[:12]


def start(drilled: Drilled, runs: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """Start the run's processes, with ``runs`` for the folder of runs."""
    command = [sys.executable, "-m", drilled.module, *drilled.argv, "--run_dir", str(runs), *flags]
    address, count = f"localhost:{free_port()}", str(drilled.processes)
    several = {"CANN_JAX_COORDINATOR": address, "CANN_JAX_PROCESSES": count}
    return [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=environment(**(several | {"CANN_JAX_PROCESS": str(index)} if drilled.processes > 1 else {})),
        )
        for index in range(drilled.processes)
    ]  # fmt: skip


def run(drilled: Drilled, runs: Path, *flags: str) -> tuple[int, str]:
    """Run to the end; return the first status that is not 0, or 0, and what was said on standard error."""
    processes = start(drilled, runs, *flags)
    said = [process.communicate()[1] for process in processes]
    failed = [(each.returncode, text) for each, text in zip(processes, said, strict=True) if each.returncode]
    return failed[0] if failed else (0, said[0])


def check(drilled: Drilled, ended: tuple[int, str]) -> None:
    """Raise RuntimeError if an undisturbed run did not end well."""
    if ended[0]:
        raise RuntimeError(f"{drilled.folder.name}, undisturbed, ended with {ended[0]}: {ended[1][-2000:]}")


def send_within(
    processes: list[subprocess.Popen[str]], index: int, stage: Path, after: float, number: int
) -> bool:
    """Send a signal to one of the processes ``after`` seconds into a stage; return whether it still ran."""
    while not (stage / "settings.json").exists():
        if processes[index].poll() is not None:
            return False
        time.sleep(0.01)
    time.sleep(after)
    if processes[index].poll() is not None or (stage / "manifest.json").exists():
        number = signal.SIGKILL  # too late for a drill; only end it
    os.kill(processes[index].pid, number) if processes[index].poll() is None else None
    return not (stage / "manifest.json").exists()


@contextmanager
def processor() -> Iterator[list[float]]:
    """Yield a list that will hold the processor seconds of the programs that ran and ended meanwhile."""
    seconds: list[float] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

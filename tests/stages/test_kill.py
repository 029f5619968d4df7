"""Killed at a random moment of each stage and started again, a run ends as an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import time

import numpy as np

from tests.builders import ROOT
from tests.builders.processes import environment
from tests.builders.runs import STAGES, command, run_process, saved_weights, write_config


def kill_within(stage: str, config: str, folder, after: float) -> bool:
    """Start the run and kill it ``after`` seconds into a stage; returns whether the stage was cut off."""
    process = subprocess.Popen(command(config), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    try:
        while not (folder / stage / "settings.json").exists():
            assert process.poll() is None, f"ended with {process.returncode} before stage {stage}"
            time.sleep(0.01)
        time.sleep(after)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return not (folder / stage / "manifest.json").exists()


def durations(folder) -> dict[str, float]:
    """Seconds that each stage of a finished run took."""
    times = {
        s: [(folder / s / f"{n}.json").stat().st_mtime for n in ("settings", "manifest")] for s in STAGES
    }
    return {stage: end - start for stage, (start, end) in times.items()}


def test_sigkill_in_each_stage_changes_nothing(finished, tiny_folder, tmp_path):
    config, folder, undisturbed = (
        write_config(tmp_path, tiny_folder),
        tmp_path / "runs/tiny",
        finished / "runs/tiny",
    )
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KILL_SEED={seed}")
    moment, seconds, cut = random.Random(seed), durations(undisturbed), []
    for stage in STAGES:
        after = moment.uniform(0, 0.8 * seconds[stage])
        cut.append(kill_within(stage, config, folder, after))
        print(f"{stage}: killed after {after:.2f} s, cut off: {cut[-1]}")
    ended = run_process(config)
    assert ended.returncode == 0, ended.stderr
    assert any(cut)
    duals = [json.loads((run / "dual/dual.json").read_text()) for run in (folder, undisturbed)]
    assert duals[0]["multipliers"] == duals[1]["multipliers"]
    ours, theirs = saved_weights(folder / "align/weights"), saved_weights(undisturbed / "align/weights")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not [
        path for path in folder.rglob("*") if ".partial" in path.name or "checkpoint-tmp" in path.name
    ]


def test_align_goes_on_from_its_checkpoint(finished, copy, again):
    folder = copy / "runs/tiny"
    for name in ("align/manifest.json", "align/checkpoints/5"):
        path = folder / name
        subprocess.run(["rm", "-r", str(path)], check=True)
    said = again("--stages", "align")
    assert "align: continuing with what was finished before" in said and "align: resumed after step 4" in said
    ours, theirs = (
        saved_weights(folder / "align/weights"),
        saved_weights(finished / "runs/tiny/align/weights"),
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)

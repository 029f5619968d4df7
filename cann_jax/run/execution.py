"""Runs stages: skips what is fresh, makes anew what is not, and refuses stale inputs."""

import pkgutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from etils import epath

from cann_jax.files.atomic import write_json
from cann_jax.files.errors import InputError
from cann_jax.run.compute import Compute, Meter, compute_of
from cann_jax.run.folder import VERSIONS, versions
from cann_jax.run.inputs import fingerprints, take_fingerprints
from cann_jax.run.manifest import (
    Record,
    StageState,
    begin,
    commit,
    commit_fingerprint,
    committed,
    expectation,
    stage_state,
)
from cann_jax.run.pipeline import Stage
from cann_jax.run.run import ModelRun
from cann_jax.run.stages import Pipeline, covered, holding, inputs_of
from cann_jax.run.time_left import seconds_before, time_left
from cann_jax.runtime import distributed
from cann_jax.runtime.compilation import compiled


@dataclass(frozen=True)
class Planned:
    """A stage, and what a run would do about it.

    Args:
        stage: The stage.
        state: How its folder compares with what is expected; ``done`` is skipped.
    """

    stage: Stage
    state: StageState

    @property
    def fresh(self) -> bool:
        """Whether the stage need not run."""
        return self.state.state == "done"


def plan(run: ModelRun[Any], stages: Pipeline, *, verify: bool = False) -> list[Planned]:
    """Return what a run of these stages, in their order, would do; writes nothing.

    Args:
        run: The run.
        stages: Stages with everything that they read.
        verify: Hash every output.

    Raises:
        InputError: A folder holds files that no stage made, a manifest is corrupt, or an input is missing.
    """
    planned: dict[str, Planned] = {}
    for stage in stages:
        anew = [
            each.name for each in inputs_of(stage, run.pipeline, run.config) if not planned[each.name].fresh
        ]
        if anew:
            begun = stage_state(run.folder / stage.name, {}).state != "unfinished"
            lines = tuple(f"inputs.{name}: computed again{_unless(stage, name)}" for name in anew)
            lines = lines if begun else ()
            state = StageState("changed" if begun else "unfinished", lines)
        else:
            writes = holding(stage.writes, run.config)
            state = stage_state(run.folder / stage.name, expected_of(run, stage), writes, verify=verify)
        planned[stage.name] = Planned(stage, state)
    return list(planned.values())


def expected_of(run: ModelRun[Any], stage: Stage) -> Record:
    """Return what the stage's manifest must record to be fresh; the stages that it reads have ended."""
    inputs = {name: value for file in stage.files for name, value in fingerprints(run, file).items()}
    for each in inputs_of(stage, run.pipeline, run.config):
        found = commit_fingerprint(run.folder / each.name, stage.only.get(each.name))
        inputs[each.name] = found or "missing"
    return expectation(stage.name, run.settings_of(stage), inputs)


def _unless(stage: Stage, name: str) -> str:
    """Say when the stage stays done although another that it reads is computed again."""
    files = stage.only.get(name)
    return "" if files is None else f" (done already if {', '.join(files)} stays as it is)"


def altered_since(run: ModelRun[Any], stage: Stage) -> tuple[str, ...]:
    """Return how what a finished stage left differs from the configuration, its inputs and its own commit.

    Files from outside are not looked at, nor are stages that were removed.
    """
    folder = run.folder / stage.name
    made = committed(folder)
    settings = {key: value for key, value in run.settings_of(stage).items() if key in made["settings"]}
    stages = {each.name for each in run.pipeline}
    inputs = {
        name: (commit_fingerprint(run.folder / name, stage.only.get(name)) or value)
        if name in stages
        else value
        for name, value in made["inputs"].items()
    }
    expected = expectation(stage.name, made["settings"] | settings, inputs)
    return stage_state(folder, expected, holding(stage.writes, run.config)).differences


def run_stages(
    run: ModelRun[Any],
    stages: Pipeline,
    *,
    verify: bool = False,
    before: Callable[[Stage], None] = lambda stage: None,
) -> None:
    """Run stages in their order, and print the time that each took, and about how long the rest takes.

    Args:
        run: The run; its folder is open.
        stages: What to run.
        verify: Hash every output of every stage that is taken for done.
        before: Called when all that a stage reads is fresh, before the stage.

    Raises:
        InputError: A stage reads one that is not among ``stages`` and is stale, altered or missing; nothing
            has been computed then. Or a stage fails.
    """
    refuse_stale(run, stages, verify=verify)
    take_fingerprints(run, stages)
    took = seconds_before(run)
    for number, stage in enumerate(stages):
        before(stage)
        # Planned anew each time: what a stage before has left as it was stays done.
        if stage.name in (to_do := _to_do(run, stages[number:])):
            left = time_left(run, took, to_do)
            print(f"stage {number + 1} of {len(stages)}: {stage.name}{left}", flush=True)
        start, before_it = time.monotonic(), compiled()
        _run_stage(run, stage, verify)
        programs, seconds = (now - then for now, then in zip(compiled(), before_it, strict=True))
        said = f", of it {seconds:.0f} s to compile {programs} programs" if seconds >= 0.5 else ""
        took |= seconds_before(run)
        print(f"{stage.name}: {time.monotonic() - start:.0f} s{said}", flush=True)


def _to_do(run: ModelRun[Any], stages: Pipeline) -> list[str]:
    """Return the names of those stages that are not fresh."""
    asked = {stage.name for stage in stages}
    read = asked | upstream(run, stages)
    planned = plan(run, tuple(stage for stage in run.pipeline if stage.name in read))
    return [each.stage.name for each in planned if not each.fresh and each.stage.name in asked]


def refuse_stale(run: ModelRun[Any], stages: Pipeline, *, verify: bool = False) -> None:
    """Check that what is read, but not among ``stages``, is fresh.

    Raises:
        InputError: It is not; names stage, key, old and new value, and the command that makes it so.
    """
    asked = {stage.name for stage in stages}
    read = upstream(run, stages)
    if read <= asked:
        return
    needed = tuple(stage for stage in run.pipeline if stage.name in asked | read)
    planned = plan(run, needed, verify=verify)
    for each in planned:
        name = each.stage.name
        if name in asked or each.fresh:
            continue
        reader = next(stage.name for stage in stages if name in upstream(run, (stage,)))
        names = ",".join(p.stage.name for p in planned if p.stage.name in asked or not p.fresh)
        never = each.state.state == "unfinished"
        why = f"has not ended in {run.folder}" if never else f"is stale: {'; '.join(each.state.differences)}"
        raise InputError(
            f"stage {reader!r} reads stage {name!r}, which {why}; "
            f"run --stages {names} with the same settings, or leave out --stages"
        )


def upstream(run: ModelRun[Any], stages: Iterable[Stage]) -> set[str]:
    """Return the names of all stages that these read, directly or through others."""
    found: set[str] = set()
    for stage in stages:
        direct = inputs_of(stage, run.pipeline, run.config)
        found |= {each.name for each in direct} | upstream(run, direct)
    return found


def _run_stage(run: ModelRun[Any], stage: Stage, verify: bool) -> None:
    """Run one stage in its folder, unless it is fresh, and commit it."""
    folder, expected = run.folder / stage.name, expected_of(run, stage)
    writes = holding(stage.writes, run.config)

    def check_read() -> None:
        if stage.verifies:
            refuse_stale(run, (stage,), verify=True)

    if not enter(folder, expected, writes, stage.name, verify, stage.parts, check_read):
        return
    read = upstream(run, (stage,))
    run.ledger.before = {s.name: compute_of(run.folder / s.name) for s in run.pipeline if s.name in read}
    with run.ledger.metered() as meter:
        stage_function(stage)(run)
        write_json(folder / VERSIONS, versions())  # the run's own are those of the last start
        leave(folder, expected, writes, stage.name, meter)


def stage_function(stage: Stage) -> Callable[[ModelRun[Any]], None]:
    """Return the function of a stage; imported only when it runs, so that a cheap stage starts quickly."""
    function: Callable[[ModelRun[Any]], None] = pkgutil.resolve_name(f"cann_jax.stages.{stage.name}:run")
    return function


def enter(
    folder: epath.Path,
    expected: Record,
    writes: Iterable[str],
    name: str,
    verify: bool,
    parts: Iterable[str] = (),
    before: Callable[[], None] = lambda: None,
) -> bool:
    """Prepare a stage's folder; return whether there is work to do, and print why.

    ``before`` is called where there is, and before anything is cleared: what it refuses stays as it was.
    """
    state = stage_state(folder, expected, writes, verify=verify)
    distributed.barrier(f"stage {name} begins")
    if state.state == "done":
        print(f"{name}: done already, by the same settings and inputs", flush=True)
        return False
    before()
    for difference in state.differences:
        print(f"{name}: {difference}")
    if state.differences:
        print(f"{name}: computed again, because of this", flush=True)
    if distributed.is_first() and begin(folder, expected, keep_work=state.keeps_work, parts=parts):
        print(f"{name}: continuing with what was finished before", flush=True)
    distributed.barrier(f"stage {name} begun")
    return True


def leave(folder: epath.Path, expected: Record, writes: Iterable[str], name: str, meter: Meter) -> None:
    """Commit a stage's folder, with what its work has cost."""
    distributed.barrier(f"stage {name} worked")
    if distributed.is_first():
        commit(folder, expected, writes, asdict(meter.total))
    distributed.barrier(f"stage {name} ends")


@contextmanager
def run_part(
    run: ModelRun[Any],
    name: str,
    part: str,
    settings: Iterable[str],
    own: Mapping[str, Any],
    writes: Iterable[str],
    known: Collection[str] = (),
) -> Iterator[epath.Path | None]:
    """Enter one part of a stage: its folder, committed on the way out; None where it is fresh.

    Args:
        run: The run.
        name: The stage.
        part: The part, and its folder below the stage's.
        settings: Keys of the configuration, of those that the stage reads, that this part depends on;
            sections whole; ``*`` is any name.
        own: Settings of this part alone.
        writes: Patterns of its outputs.
        known: Stages whose commits do not matter, for it reads nothing of them, or ``own`` has all of that.
    """
    stage = next(stage for stage in run.pipeline if stage.name == name)
    folder, label = run.folder / name / part, f"{name}/{part}"
    shared = {key: value for key, value in run.settings_of(stage).items() if covered(key, settings)}
    inputs = {key: value for key, value in expected_of(run, stage)["inputs"].items() if key not in known}
    expected = expectation(label, {**shared, **own}, inputs)
    if not enter(folder, expected, writes, label, verify=True):
        run.ledger.add(compute_of(folder) or Compute())
        yield None
        return
    with run.ledger.metered() as meter:
        yield folder
        leave(folder, expected, writes, label, meter)

"""Which stages a run would skip, and why it would compute the others."""

from collections.abc import Iterator
from typing import Any

from cann_jax.run.execution import plan, refuse_stale
from cann_jax.run.run import ModelRun
from cann_jax.run.stages import Pipeline


def plan_lines(run: ModelRun[Any], stages: Pipeline, *, opened: bool) -> Iterator[str]:
    """Yield a line a stage; without the model at hand, what it made before cannot be recognised.

    Raises:
        InputError: A stage reads one that would not run and is not fresh.
    """
    if not opened or not run.folder.exists():
        yield f"stages: {', '.join(stage.name for stage in stages)}"
        return
    refuse_stale(run, stages)
    for each in plan(run, run.stages):
        if each.stage in stages:
            why = (
                f"computed again: {'; '.join(each.state.differences)}" if each.state.differences else "to do"
            )
            yield f"stage {each.stage.name}: {'done already' if each.fresh else why}"

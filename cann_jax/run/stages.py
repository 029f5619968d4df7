"""Which stages a run has, and what of its configuration each reads: what follows from a pipeline's table."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from cann_jax.files.errors import InputError, hint
from cann_jax.run.pipeline import NO_SETTINGS, Stage, When

Pipeline = tuple[Stage, ...]


def stages_of(pipeline: Pipeline, config: Any) -> Pipeline:
    """Return the stages that this configuration's run has, in their order."""
    return tuple(stage for stage in pipeline if stage.when.holds(config))


def chosen_stages(pipeline: Pipeline, config: Any, text: str | None) -> Pipeline:
    """Return the stages that ``--stages`` names, in the pipeline's order; all of them for None.

    Raises:
        InputError: A name that no stage has (names the nearest), or of a stage that this run does not have.
    """
    there = stages_of(pipeline, config)
    if text is None:
        return there
    asked, names = [name.strip() for name in text.split(",")], [stage.name for stage in pipeline]
    for name in asked:
        if name not in names:
            raise InputError(
                f"command line: --stages: there is no stage {name!r}; {hint(name, names, 'stages')}"
            )
        stage = pipeline[names.index(name)]
        if stage not in there:
            raise InputError(
                f"command line: --stages: this run has the stage {name!r} only when {stage.when.words}; "
                "change the configuration, or leave the stage out"
            )
    return tuple(stage for stage in there if stage.name in asked)


def inputs_of(stage: Stage, pipeline: Pipeline, config: Any) -> Pipeline:
    """Return the stages whose outputs a stage reads under this configuration, in their order."""
    wanted = holding(stage.reads, config)
    return tuple(each for each in stages_of(pipeline, config) if each.name in wanted)


def holding(names: Mapping[str, When], config: Any) -> tuple[str, ...]:
    """Return the names whose condition holds."""
    return tuple(name for name, when in names.items() if when.holds(config))


def reads_setting(stage: Stage, key: str) -> bool:
    """Return whether a stage's result depends on the setting with this dotted key."""
    return covered(key, stage.settings) and not covered(key, NO_SETTINGS)


def covered(key: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern is the key itself or a section around it."""
    parts = key.split(".")
    return any(
        len(pattern) <= len(parts) and all(map(fnmatchcase, parts, pattern))
        for pattern in (text.split(".") for text in patterns)
    )

"""Which stages a run has, and what of its configuration each reads: what follows from a pipeline's table."""

import dataclasses
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from cann_jax.files.errors import InputError, hint, listed
from cann_jax.files.hashes import as_json
from cann_jax.run.manifest import flattened
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


def print_unread(pipeline: Pipeline, config: Any) -> None:
    """Print which settings are not at their defaults and change nothing in this configuration's run."""
    if keys := unread_settings(pipeline, config):
        print(f"settings that nothing in this run reads: {listed(keys)}", flush=True)


def unread_settings(pipeline: Pipeline, config: Any) -> tuple[str, ...]:
    """Return the keys that are not at their defaults and that no stage of this configuration's run reads."""
    read = {pattern for stage in stages_of(pipeline, config) for pattern in stage.settings} - {"*"}
    read |= {"export", *NO_SETTINGS}  # which choose stages, or are read outside of them
    if not config.trains:  # the evaluation reads some of these of what was trained
        read = {pattern for pattern in read if pattern.partition(".")[0] not in ("align", "rounds", "export")}
    keys: list[str] = []
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        defaults = dict(flattened(as_json(default), field.name)) if default is not dataclasses.MISSING else {}
        own = flattened(as_json(getattr(config, field.name)), field.name)
        keys += [key for key, value in own if key not in defaults or value != defaults[key]]
    return tuple(key for key in keys if not covered(key, read))


def covered(key: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern is the key itself or a section around it."""
    parts = key.split(".")
    return any(
        len(pattern) <= len(parts) and all(map(fnmatchcase, parts, pattern))
        for pattern in (text.split(".") for text in patterns)
    )

"""Render docs/pipeline.md from the pipeline's table; ``python -m tests.docs.pipeline_page`` rewrites it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cann_jax.run.pipeline import NO_SETTINGS, PIPELINE, SCORE_MODEL_PIPELINE, Stage, When
from tests.docs.markdown import code, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipeline.md"
COMMAND = "python -m tests.docs.pipeline_page"
INTRODUCTION = f"""\
# The pipeline

This page is generated from the table in [cann_jax/run/pipeline.py](../cann_jax/run/pipeline.py); a test
fails when the two differ. After a change of the table, rewrite the page with `{COMMAND}`.

The table decides which stages a run has, what `--stages` may name, and what is skipped, recomputed or
refused. [Freshness](architecture.md#freshness) explains how.

* **Settings** are keys of the configuration on which the stage's result depends. A section's name stands
  for everything in it, `*` for any name.
* **Files** are inputs from outside the run, which are compared by content.
* **Reads** and **writes** name stages and files in the stage's folder `runs/NAME/STAGE/`; `*` stands for
  any text. A condition in parentheses says when an entry applies."""


def pipeline_page() -> str:
    """Return the text of docs/pipeline.md."""
    parts = [
        INTRODUCTION,
        *_section("python -m cann_jax.train", PIPELINE),
        *_section("python -m cann_jax.reward", SCORE_MODEL_PIPELINE),
        "## Settings that no stage depends on",
        "Where a file lies is not a setting, because what it holds is an input; the others change no result.",
        ", ".join(map(code, NO_SETTINGS)) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _section(command: str, pipeline: Iterable[Stage]) -> Iterator[str]:
    stages = tuple(pipeline)
    yield f"## `{command}`"
    yield table(
        ("stage", "question", "when"),
        ((code(stage.name), stage.question, stage.when.words or "always") for stage in stages),
    )
    for stage in stages:
        yield f"### {stage.name}"
        yield f"{stage.question} Function: `run` in `cann_jax/stages/{stage.name}.py`."
        yield table(("", ""), _rows(stage))


def _rows(stage: Stage) -> Iterator[tuple[str, str]]:
    yield "when", stage.when.words or "always"
    yield "settings", _names(stage.settings)
    yield "files", _names(stage.files)
    yield "reads", _conditional(stage.reads)
    for name, files in stage.only.items():
        yield f"of `{name}`", f"{_names(files)} alone: other outputs of it do not matter"
    yield "writes", _conditional(stage.writes)
    if stage.parts:
        yield "in parts", f"folders {_names(stage.parts)}: each has a commit of its own, recomputed by itself"
    if stage.verifies:
        yield "verifies", "hashes the contents of everything that it reads before it starts"


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(code, names)) or "none"


def _conditional(names: Mapping[str, When]) -> str:
    found = (f"{code(name)} ({when.words})" if when.words else code(name) for name, when in names.items())
    return ", ".join(found) or "none"


if __name__ == "__main__":
    PAGE.write_text(pipeline_page(), encoding="utf-8")

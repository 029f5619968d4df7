"""The model card of an exported model: what it is, whether it holds, and how to make it again."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import jinja2
from etils import epath

from cann_jax.config.export import Format
from cann_jax.config.model import PREFERENCES
from cann_jax.files.atomic import read_json, write_bytes_atomic
from cann_jax.files.console import one_line, printable
from cann_jax.files.hashes import as_json
from cann_jax.files.numbers import percent
from cann_jax.files.yaml_text import dump_yaml
from cann_jax.models.files.model_files import public_name
from cann_jax.run.exports import GGUF_FILE
from cann_jax.run.folder import VERSIONS
from cann_jax.run.manifest import committed
from cann_jax.run.outputs import read_results
from cann_jax.run.results import bound_lines, headings, result_rows, summary_lines, verdict_lines
from cann_jax.run.run import Run
from cann_jax.run.trained import trained_words

CARD, SETTINGS = "README.md", "run.yaml"
# Where files, machines and logs were is not for others, and the model does not depend on it.
OWN = ("run_dir", "mesh", "distributed", "metrics", "on_step")
# By format, what the Hub is told: the library that opens it, and what it is to its base.
LIBRARIES = {
    "adapter": ("peft", "adapter"),
    "merged": ("transformers", "finetune"),
    "gguf": (None, "quantized"),
}
TAGS = ("cann_jax", "safety-alignment", "constrained-alignment")
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("cann_jax.run"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["percent"] = percent


def write_card(run: Run, form: Format, folder: epath.Path) -> None:
    """Write ``README.md``, with the front matter of the Hugging Face Hub, and ``run.yaml`` beside a model."""
    settings = {key: value for key, value in as_json(run.config).items() if key not in OWN}
    write_bytes_atomic(folder / SETTINGS, dump_yaml(settings).encode())
    write_bytes_atomic(folder / CARD, card(run, form).encode())


def card(run: Run, form: Format) -> str:
    """Return the model card of a run that has been evaluated."""
    from huggingface_hub import ModelCardData

    config, results = run.config, read_results(run)
    base, (library, relation) = public_name(config.model.path), LIBRARIES[form]
    front = ModelCardData(
        base_model=base,  # a path would be refused
        base_model_relation=relation if base else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=[*TAGS, *(("lora",) if config.align.lora else ())],
        ignore_metadata_errors=False,
    )
    read = ("sample", *(("calibrate",) if config.calibrated else ()), "evaluate")
    made = {key: value for stage in read for key, value in committed(run.folder / stage)["inputs"].items()}
    versions, exported = _versions(run)
    template = TEMPLATES.get_template("card.md")
    return template.render(
        front=front.to_yaml(),
        name=config.name,
        base=base or PurePath(config.model.path).name,
        quantized=run.files.path.name if run.files.path.suffix == ".gguf" and form == "adapter" else None,
        form=form,
        gguf=GGUF_FILE,
        results=results,
        summary=results["summary"],
        trained=results["summary"].get("trained") or trained_words(run),  # results of before have none
        verdicts=verdict_lines(results),
        headings=headings(results),
        rows=result_rows(results),
        lines=[*bound_lines(results), *summary_lines(results)],
        fingerprint=made["model"],
        # The last parts: of runs/NAME/export/adapter the very last tells nothing.
        adapter=PurePath(*PurePath(config.model.adapter).parts[-3:]) if config.model.adapter else None,
        data=list(_data(run, made)),
        scorers=list(_scorers(run)),
        config=config,
        stops=_stops(config.sample.stop),
        halts="".join(f" -r {shlex.quote(_escaped(text))}" for text in config.sample.stop),
        version=versions["cann_jax"],
        versions=versions,
        exported=exported,
        settings=SETTINGS,
    )


def _versions(run: Run) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of what the policy was trained with, and those that others were exported with.

    A model that JAX 0.7 trained and a later start exported was said to be made with the later JAX.
    """
    last = [stage.name for stage in run.stages if stage.name in ("experts", "align", "rounds")][-1]
    here, there = run.folder / VERSIONS, run.folder / last / VERSIONS
    now = dict(read_json(here))
    then = dict(read_json(there)) if there.exists() else now  # stages of before left none
    return then, {key: value for key, value in now.items() if then.get(key) != value}


def _data(run: Run, made: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what each set of prompts is, and where it comes from."""
    uses = {
        "train": "training",
        "calibration": "choice of the scale",
        "heldout": "the verdict, and nothing else",
    }
    preferences = run.config.preferences
    for name, source in run.config.prompts.sources().items():
        digest = made.get(f"prompts.{name}")
        where = "the preference pairs" if source == PREFERENCES else f"`{PurePath(source).name}`"
        yield uses[name], where + (f", SHA-256 {digest[:12]}…" if digest else "")
    if preferences is not None:
        yield "preference pairs", f"`{preferences.dataset}`"


def _scorers(run: Run) -> Iterator[tuple[str, str, str]]:
    """Yield each score's name, what is asked of it, and how it is computed."""
    for name, (_, scorer) in run.config.trained_on().items():
        asked = {} if name == "reward" else as_json(run.config.constraints[name])
        if asked.get("max_unsafe") is None:
            asked.pop("unsafe_below", None)
        asked.pop("scorer", None)
        yield name, _words(asked) or "as much as possible", _words(as_json(scorer))


def _stops(texts: Sequence[str]) -> str:
    """Return what ends a response beside the model's end tokens, as the end of a sentence in Markdown."""
    spans = ("`" + f'"{_escaped(text)}"'.replace("`", r"\u0060") + "`" for text in texts)
    return f"; the model's end tokens end a response, and so does {' or '.join(spans)}" if texts else ""


def _escaped(text: str) -> str:
    """Return a text on one line, as within the quotes of JSON; llama.cpp's options undo that too."""
    return printable(json.dumps(text, ensure_ascii=False)[1:-1])


def _words(values: dict[str, Any]) -> str:
    """Return settings as words; those that are null are left out, and texts cut short."""
    found = {key: value for key, value in values.items() if value is not None}
    return ", ".join(f"{key} {one_line(str(value), 80)}" for key, value in found.items())

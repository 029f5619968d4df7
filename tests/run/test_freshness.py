"""Which stages become stale with each setting and file: by their folders, against the pipeline's table."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.files.errors import InputError
from cann_jax.files.functions import named_function
from cann_jax.files.hashes import as_json, fingerprint_file
from cann_jax.run.execution import expected_of, plan, refuse_stale, run_stages
from cann_jax.run.inputs import fingerprints
from cann_jax.run.manifest import commit, flattened
from cann_jax.run.pipeline import NO_SETTINGS, PIPELINE, Stage
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers
from cann_jax.run.stages import holding, reads_setting, stages_of
from cann_jax.scorers.function import FunctionScorer
from tests.builders.ended_run import end_every_stage, end_stage, whole_config
from tests.builders.settings import type_at

# Settings that name a file, and the stages' inputs that it is.
FILES = {
    "model.path": ("model", "tokenizer"),
    "model.adapter": ("model", "tokenizer"),
    "model.revision": ("model", "tokenizer"),
    "prompts.train": ("prompts.train",),
    "prompts.calibration": ("prompts.calibration",),
    "prompts.heldout": ("prompts.heldout",),
    "preferences.path": ("preferences",),
}
# Of these, the ones that are set.
MOVABLE = ("model.path", "prompts.train", "prompts.calibration", "prompts.heldout", "preferences.path")
OWN_SCORER = "def score(prompts, responses):\n    return [1.0] * len(responses)\n"
PROBE = {"prompt": "a", "better": "b", "worse": "c"}
# Values for settings whose neighbours leave little choice.
CHOSEN: dict[str, Any] = {
    "calibrate.power": 0.8,
    "prompts.date": "2024-07-26",
    "sample.temperature": 0.5,
    "sample.stop": ["."],
    "sample.feature_layers": [1, 2],
    "align.pairs": "dataset",
    "align.preference": "better",
    "constraints.length.group": "odd",
    "constraints.vowels.group": "odd",
    "constraints.vowels.clip": [0.0, 1.0],
    "constraints.length.clip": [-9.0, 0.0],
    "preferences.chosen_is": "better",
    "align.lora.targets": ["q_proj"],
    "prealign.lora.targets": ["q_proj"],
    "prompts.template": "Q: {prompt}",
    "align.accumulation": 5,
    "mesh.data": 2,
    "metrics": ["jsonl"],
    "export": ["merged"],
    "distributed.process": 1,
    **{f"constraints.{name}.scorer.probe": PROBE for name in ("length", "vowels")},
}
# What else must change with a setting, where it cannot change alone.
WITH: dict[str, dict[str, Any]] = {
    "sample.temperature": {"sample.allow_changed_reference": True},
    "sample.top_p": {"sample.allow_changed_reference": True},
    "align.group_size": {"online.responses": 8},
    "align.combination": {"rounds": 1},
    "align.dial": {"rounds": 1},
    "align.safety_offset": {"rounds": 1},
    "align.pairs": {"rounds": 1, "constraints.length.group": None},
    "align.preference": {"rounds": 1, "align.pairs": "dataset"},
    **{
        f"constraints.{name}.{target}": {f"constraints.{name}.margin": None}
        for name in ("length", "vowels")
        for target in ("at_least", "max_unsafe")
    },
    **{
        f"constraints.{name}.unsafe_below": {
            f"constraints.{name}.margin": None,
            f"constraints.{name}.max_unsafe": 0.5,
        }
        for name in ("length", "vowels")
    },
    **{
        f"{scorer}.prealigned.{source}": {f"{scorer}.prealigned.preference": None}
        | ({f"{scorer}.prealigned.model": "x"} if source == "revision" else {})
        for scorer in ("reward.scorer", "evaluate.also.safe")
        for source in ("system_prompt", "adapter", "model", "revision")
    },
    "distributed.coordinator": {"distributed.processes": 2, "distributed.process": 0},
    "distributed.processes": {"distributed.coordinator": "a:1", "distributed.process": 0},
    "distributed.process": {"distributed.coordinator": "a:1", "distributed.processes": 2},
}


@pytest.fixture(scope="module")
def ended(tiny_folder, tmp_path_factory) -> Run:
    """A run of every stage, all of them ended; look, do not touch."""
    run = whole_config(tmp_path_factory.mktemp("ended"), tiny_folder)
    end_every_stage(run)
    return run


def changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The configuration with other values at dotted keys."""
    values = as_json(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        inside = values
        for name in path:
            inside = inside[name]
        inside[last] = value
    return from_mapping(RunConfig, values)


def other_values(key: str, value: Any) -> Iterator[Any]:
    """Values of the same type that are not this one."""
    hint = type_at(RunConfig, key)
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not type(None))
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(plain) is Literal:
        yield from (each for each in get_args(plain) if each != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value * 2)
    elif isinstance(value, float):
        yield from (value + 0.25, value / 2, 0.25)
    elif isinstance(value, str):
        yield f"{value}x"
    else:
        yield from (3, 0.5, "text {reply} {prompt}")


def change_of(config: RunConfig, key: str, value: Any) -> dict[str, Any]:
    """Another valid value for a key, with what must change beside it."""
    if key.endswith(".kind"):
        return {key.removesuffix(".kind"): {"kind": "relevance"}}
    candidates = [CHOSEN[key]] if key in CHOSEN else other_values(key, value)
    for candidate in candidates:
        changes = {key: candidate, **WITH.get(key, {})}
        try:
            changed(config, changes)
        except InputError:
            continue
        return changes
    raise AssertionError(f"no other value of {key} is valid; add one to CHOSEN or WITH")


def differing(before: RunConfig, after: RunConfig) -> set[str]:
    """The keys whose values differ, or that only one of the two has."""
    old, new = (dict(flattened(as_json(config))) for config in (before, after))
    return {key for key in old.keys() | new.keys() if old.get(key, ...) != new.get(key, ...)}


def table_says(config: RunConfig, before: RunConfig) -> set[str]:
    """The stages that the table makes stale: readers of a changed setting or file, and all behind them."""
    stale: set[str] = set()
    changes = differing(before, config)
    old = {stage.name for stage in stages_of(PIPELINE, before)}
    for stage in stages_of(PIPELINE, config):
        direct = any(
            reads_setting(stage, key) or set(FILES.get(key, ())) & set(stage.files) for key in changes
        )
        reads = {name for name, when in stage.reads.items() if when.holds(config)}
        # A stage that reads other stages than before has other inputs, though no setting of its own changed.
        moved = reads != {name for name, when in stage.reads.items() if when.holds(before)}
        if direct or moved or stage.name not in old or reads & stale:
            stale.add(stage.name)
    return stale


def test_every_setting_makes_stale_what_the_table_says(ended, tmp_path, tiny_folder):
    config = ended.config
    wrong, used = [], set()
    for key, value in flattened(as_json(config)):
        if key in FILES:
            continue
        try:
            changes = change_of(config, key, value)
        except AssertionError as error:
            wrong.append(str(error))
            continue
        run = Run(changed(config, changes | {"run_dir": config.run_dir, "name": config.name}))
        run.fingerprints = ended.fingerprints  # the files from outside are the same ones
        found = {each.stage.name for each in plan(run, run.stages) if not each.fresh}
        expected = table_says(run.config, config)
        if key not in NO_SETTINGS and not key.startswith(("mesh.", "distributed.")):
            used |= {key} if expected else set()
            wrong += [] if expected else [f"{key}: no stage reads it"]
        if found != expected:
            wrong.append(f"{key} → {changes}: stale {sorted(found)}, the table says {sorted(expected)}")
    assert not wrong, "\n".join(wrong)
    assert len(used) > 90


@pytest.mark.parametrize("key", MOVABLE)
def test_a_file_with_other_content_makes_stale_what_the_table_says(ended, tmp_path, key):
    config = ended.config
    source = Path(dict(flattened(as_json(config)))[key])
    copy = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, copy)
        template = copy / "chat_template.jinja"
        template.write_text(template.read_text() + " ")
    else:
        lines = source.read_text().splitlines(keepends=True)
        copy.write_text("".join(lines[:-1]))
    run = Run(changed(config, {key: str(copy)}))
    found = {each.stage.name for each in plan(run, run.stages) if not each.fresh}
    assert found == table_says(run.config, config) and found


def test_the_same_content_elsewhere_makes_nothing_stale(ended, tmp_path):
    config = ended.config
    moved = {}
    for key in MOVABLE:
        source = Path(dict(flattened(as_json(config)))[key])
        folder = tmp_path / key
        folder.mkdir()
        copy = folder / source.name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copyfile(source, copy)
        moved[key] = str(copy)
    run = Run(changed(config, moved))
    assert all(each.fresh for each in plan(run, run.stages))


def test_order_of_constraints_is_no_change(ended):
    values = as_json(ended.config)
    values["constraints"] = dict(reversed(values["constraints"].items()))
    run = Run(from_mapping(RunConfig, values))
    run.fingerprints = ended.fingerprints
    assert list(run.config.constraints) != list(ended.config.constraints)
    assert all(each.fresh for each in plan(run, run.stages))


def named(run: Run, *names: str):
    return tuple(stage for stage in run.stages if stage.name in names)


@pytest.mark.parametrize(
    "asked, changes, message",
    [
        (
            ("dual",),
            {"reward.scorer.beta": 0.3},
            "stage 'dual' reads stage 'prealign', which is stale: settings.reward.scorer.beta: 0.2 → 0.3; "
            "run --stages prealign,score,dual with",
        ),
        (
            ("evaluate",),
            {"align.lora.alpha": 32.0},
            "stage 'evaluate' reads stage 'align', which is stale: settings.align.lora.alpha: 4.0 → 32.0; "
            "run --stages align,calibrate,rounds,evaluate with",
        ),
        (
            ("sample", "dual"),
            {"sample.responses": 5},
            "stage 'dual' reads stage 'score', which is stale: inputs.sample: computed again; "
            "run --stages sample,score,dual with",
        ),
    ],
)
def test_a_lone_stage_over_a_stale_input_is_refused(ended, asked, changes, message):
    run = Run(changed(ended.config, changes))
    run.fingerprints = ended.fingerprints
    with pytest.raises(InputError) as caught:
        refuse_stale(run, named(run, *asked))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_lone_stage_over_fresh_inputs_is_not_refused(ended):
    refuse_stale(ended, named(ended, "evaluate"))
    run = Run(changed(ended.config, {"constraints.vowels.margin": 0.01}))
    run.fingerprints = ended.fingerprints
    refuse_stale(run, named(run, "dual"))


def test_a_stage_that_never_ended_is_named(ended, tmp_path):
    run = Run(changed(ended.config, {"run_dir": str(tmp_path)}))
    run.fingerprints = ended.fingerprints
    asked = "run --stages pairs,prealign,sample,score,dual with"
    with pytest.raises(InputError, match=f"'dual' reads stage 'pairs', which has not ended in .*; {asked}"):
        refuse_stale(run, named(run, "dual"))


def test_what_is_refused_has_cleared_nothing(tiny_folder, tmp_path):
    """An input that was altered behind its size and time is found only by hashing it, before the work."""
    run = whole_config(tmp_path, tiny_folder)
    end_every_stage(run)
    path = run.folder / "evaluate/results.json"
    before, data = os.stat(path), path.read_bytes()
    path.write_bytes(data.replace(b"made up", b"altered"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    more = Run(changed(run.config, {"export": ["adapter", "merged"]}))
    with pytest.raises(InputError, match=r"stage 'export' reads stage 'evaluate', which is stale"):
        run_stages(more, named(more, "export"))
    assert {each.name for each in (run.folder / "export").iterdir()} == {
        "adapter",
        "manifest.json",
        "settings.json",
    }


@pytest.fixture
def dial(tiny_folder, tmp_path) -> Run:
    """A run of a dial, every stage ended, whose adapters learn predicted scores."""
    flags = "--align.dial true --rounds 1 --align.labels denoised --align.loss listwise"
    run = whole_config(tmp_path, tiny_folder, *flags.split())
    end_every_stage(run)
    return run


@pytest.mark.parametrize("predicted", ["as before", "otherwise"])
def test_another_margin_trains_no_dial(dial, tmp_path, predicted):
    """Unless what features tell of the scores has changed with it, which the adapters learnt."""
    run = Run(changed(dial.config, {"constraints.vowels.margin": 0.01}))
    run.fingerprints = dial.fingerprints
    assert "align" not in {stage.name for stage in run.stages}
    lines = {each.stage.name: each.state.differences for each in plan(run, run.stages) if not each.fresh}
    assert lines["experts"] == (
        "inputs.dual: computed again (done already if predicted.parquet stays as it is)",
    )
    (dual,) = named(run, "dual")
    before = shutil.copyfile(run.folder / "dual/predicted.parquet", tmp_path / "before")
    end_stage(run, dual, "other")
    if predicted == "as before":
        shutil.copyfile(before, run.folder / "dual/predicted.parquet")
        commit(run.folder / "dual", expected_of(run, dual), holding(dual.writes, run.config))
    stale = {each.stage.name for each in plan(run, run.stages) if not each.fresh}
    assert stale == {"calibrate", "evaluate", "export"} | ({"experts"} if predicted == "otherwise" else set())


@pytest.fixture
def scored_by_own(tiny_folder, tmp_path, monkeypatch) -> Run:
    """A run whose constraint "vowels" is scored by ``own_scorer.py``, which no process has imported."""
    (tmp_path / "own_scorer.py").write_text(OWN_SCORER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_scorer", raising=False)
    scorer = "{kind: function, function: own_scorer:score, better: higher}"
    return whole_config(tmp_path, tiny_folder, "--constraints.vowels.scorer", scorer)


def test_a_file_that_is_edited_while_a_run_is_under_way_is_not_taken_for_what_was_read(scored_by_own):
    """Held-out prompts are read at the start and a function imported by `score`, hours before `evaluate`."""
    run, own = scored_by_own, "constraints.vowels.scorer"
    paths = {f"prompts.{name}": Path(path) for name, path in run.config.prompts.sources().items()}
    before = {name: fingerprint_file(path) for name, path in (paths | {own: "own_scorer.py"}).items()}
    for name in run.config.prompts.sources():
        encoded_prompts(run, name)  # as the check at the start does
    for path in paths.values():
        path.write_text(path.read_text().replace("1", "one"))

    def edit(stage: Stage) -> None:
        Path("own_scorer.py").write_text(OWN_SCORER.replace("1.0", "0.0"))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_stages(run, run.stages, before=edit)
    recorded = [
        each for stage in run.stages for name in stage.files for each in fingerprints(run, name).items()
    ]
    assert {each for each in recorded if each[0] in before} == {*before.items()}
    (_, scorer) = load_scorers(run, {"vowels": run.config.measured()["vowels"]})["vowels"]
    assert scorer.score_texts(["a"], ["b"]).values == 1.0


def test_a_function_is_known_by_the_code_that_was_imported(scored_by_own):
    """`on_step` may name the module of a scorer, and is imported before any hash is taken."""
    before = fingerprint_file("own_scorer.py")
    named_function("own_scorer:score", "on_step")
    Path("own_scorer.py").write_text(OWN_SCORER.replace("1.0", "0.0"))
    assert fingerprints(scored_by_own, "scorers")["constraints.vowels.scorer"] == before


def test_what_a_scorer_brings_is_hashed_once_a_run(scored_by_own, monkeypatch):
    """It may be a reward model of 140 GB, which training and evaluation both read."""
    asked = []
    monkeypatch.setattr(FunctionScorer, "identity", lambda self, context: asked.append(context.key) or {})
    for name in ("scorers", "measured scorers"):
        fingerprints(scored_by_own, name)
    assert sorted(asked) == ["constraints.length.scorer", "constraints.vowels.scorer"]

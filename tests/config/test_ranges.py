"""Every numeric setting of every settings class is refused outside its range, before anything is computed."""

import dataclasses
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
import yaml

from cann_jax.analysis.flags import DualFlags
from cann_jax.command_line.run_options import parse_run, parse_score_model
from cann_jax.config.ranges import Must
from cann_jax.config.run import RunConfig
from cann_jax.config.schema import SchemaError, _in_range, from_mapping, limits, type_name
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.files.errors import InputError
from cann_jax.files.yaml_text import load_yaml
from tests.builders.runs import write_config
from tests.builders.settings import fields_of

# Scores have units of their own: any finite number may be asked for.
UNBOUNDED = {"margin", "at_least", "unsafe_below"}


def plain(hint: Any) -> Any:
    """The type of a value that is not null."""
    is_union = get_origin(hint) in (Union, UnionType)
    return next(each for each in get_args(hint) if each is not type(None)) if is_union else hint


def is_number(hint: Any) -> bool:
    hint = plain(hint)
    return (get_args(hint)[0] if get_origin(hint) is Annotated else hint) in (int, float)


NUMBERS = [
    (schema.__name__, key, hint)
    for schema in (RunConfig, ScoreModelConfig, DualFlags)
    for key, hint in fields_of(schema)
    if is_number(hint)
]


def outside(hint: Any) -> list[float]:
    """The values nearest to the range that are not in it."""
    whole = get_args(hint)[0] is int
    found: list[float] = []
    for limit in limits(hint):
        match limit:
            case annotated_types.Ge(bound):
                found += [bound - 1 if whole else bound - 1e-9, -1e30]
            case annotated_types.Gt(bound):
                found += [bound, bound - 1e-9]
            case annotated_types.Le(bound):
                found += [bound + 1 if whole else bound + 1e-9, 1e30]
            case annotated_types.Lt(bound):
                found += [bound]
            case Must():
                found += [0, -2]  # sizes of mesh axes
    return [int(value) for value in found] if whole else found


@pytest.mark.parametrize("schema, key, hint", NUMBERS, ids=[f"{schema}-{key}" for schema, key, _ in NUMBERS])
def test_a_number_outside_its_range_is_refused(schema, key, hint):
    hint, name = plain(hint), key.rpartition(".")[2]
    if name in UNBOUNDED:
        assert not limits(hint)
        return
    assert limits(hint), f"{schema}.{key} has no range; declare one beside it (cann_jax/config/ranges.py)"
    made = dataclasses.make_dataclass("One", [(name, hint)])
    for value in outside(hint):
        with pytest.raises(SchemaError, match=f"^above.{name} is "):
            from_mapping(made, {name: value}, "above")
    for value in (float("nan"), float("inf"), "a lot", None, True):
        with pytest.raises(SchemaError):
            from_mapping(made, {name: value}, "above")


def test_the_walk_sees_every_numeric_setting():
    assert len(NUMBERS) > 70
    assert {key for _, key, _ in NUMBERS} >= {
        "seed", "align.lora.rank", "lora.dropout", "prealign.optimizer.b1", "constraints.NAME.max_unsafe",
        "reward.scorer.beta", "evaluate.also.NAME.batch", "mesh.data", "optimizer.warmup_steps",
    }  # fmt: skip


def test_defaults_are_in_range():
    for schema in (RunConfig, ScoreModelConfig):
        for item in dataclasses.fields(schema):
            default = item.default_factory() if callable(item.default_factory) else item.default
            if dataclasses.is_dataclass(default):
                check_defaults(default)


def check_defaults(made: Any) -> None:
    for key, hint in fields_of(type(made)):
        value = made
        for name in key.split("."):
            value = None if value is None or name == "NAME" else getattr(value, name, None)
        if value is not None:
            _in_range(plain(hint), value, key)


HOLES = [
    ("constraints.vowels.max_unsafe", "1.5", "of at least 0 and below 1"),
    ("constraints.vowels.clip", "[2, 1]", "low < high"),
    ("align.optimizer.warmup_steps", "-5", "of at least 0"),
    ("align.optimizer.b1", "2", "below 1"),
    ("align.optimizer.final_fraction", "7", "at most 1"),
    ("align.optimizer.learning_rate", "-1", "above 0"),
    ("evaluate.examples", "-1", "of at least 0"),
    ("seed", "-1", "of at least 0"),
    ("seed", "4294967296", "below 2147483648"),
    ("align.lora.targets", "[]", "not empty"),
    ("align.lora.targets", "[q_proj, q_proj]", "names each layer once"),
    ("align.lora.targets", "[w_proj]", "a list like"),
    ("align.lora.alpha", "0", "above 0"),
    ("align.lora.rank", "0", "of at least 1"),
    ("align.lora.dropout", "2", "below 1"),
    ("name", "../../x", "relative path"),
    ("name", "/tmp/x", "relative path"),
    ("name", "a//b", "relative path"),
    ("sample.feature_layers", "[2, 2]", "each above the one before"),
    ("sample.feature_layers", "[0, 2]", "of at least 1"),
    ("prompts.next_turn", "nothing", "{reply} and, behind it, {prompt}"),
    # The user's text before the reply would stay as it is written here, and the last question be lost.
    ("prompts.next_turn", "USER: {prompt} ASSISTANT: {reply}", "{reply} and, behind it, {prompt}"),
]


@pytest.mark.parametrize("key, value, words", HOLES, ids=[f"{key}={value}" for key, value, _ in HOLES])
def test_known_holes_are_closed_at_parse_time(tiny_folder, tmp_path, key, value, words):
    config = write_config(tmp_path, tiny_folder)
    with pytest.raises(InputError) as caught:
        parse_run(["--config", config, f"--{key}", value])
    message = str(caught.value)
    assert message.startswith(f"command line: {key} is ") and words in message and "\n" not in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--prompts.template", "USER: {prompt}", "--prompts.system", "Be safe."],
            "prompts.system is set, and only a chat template writes it",
        ),
        (
            ["--constraints.vowels.unsafe_below", "1"],
            "constraints.vowels.unsafe_below does nothing without max",
        ),
        (
            ["--constraints.vowels", "{scorer: {kind: inoffensive}, max_unsafe: 0.1, clip: [0, 10]}"],
            "constraints.vowels.unsafe_below is 0, and clip [0, 10]: every clipped score is above it",
        ),
        (
            ["--constraints.vowels", "{scorer: {kind: inoffensive}, at_least: 3, clip: [0, 2]}"],
            "constraints.vowels.at_least is 3, and clip [0, 2]: no clipped score reaches it",
        ),
    ],
)
def test_settings_that_would_be_ignored_or_tell_nothing(tiny_folder, tmp_path, flags, message):
    with pytest.raises(InputError) as caught:
        parse_run(["--config", write_config(tmp_path, tiny_folder), *flags])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value, other",
    [("dual.multipliers", "attainable", "plug_in"), ("align.labels", "denoised", "scores")],
)
def test_what_needs_features_is_refused_without_them(tiny_folder, tmp_path, key, value, other):
    flags = ["--config", write_config(tmp_path, tiny_folder), f"--{key}", value]
    parse_run(flags)
    with pytest.raises(InputError) as caught:
        parse_run([*flags, "--sample.feature_layers", "[]"])
    expected = f"{key} is {value!r}, and sample.feature_layers is empty; leave that out, or use {other}"
    assert str(caught.value).endswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        "also",
        "text",
        "logp",
        "prompt",
        "tokens",
        "reward",
        "summary",
        "group",
        "prompt_id",
        "a@b",
        " x",
        "a\tb",
        "r_λ",
    ],
)
def test_names_of_columns_are_no_names_of_scores(tiny_folder, tmp_path, name):
    config = write_config(tmp_path, tiny_folder)
    for above in ("constraints", "evaluate.also"):
        inner = "scorer.kind" if above == "constraints" else "kind"
        with pytest.raises(InputError, match=f"{above}.{name} is .*a name that no column"):
            parse_run(["--config", config, f"--{above}.{name}.{inner}", "relevance"])


@pytest.mark.parametrize(
    "key, value", [("lora.rank", 0), ("optimizer.learning_rate", -1), ("lora.dropout", 2), ("confidence", 1)]
)
def test_a_score_models_settings_have_the_same_ranges(tiny_folder, tmp_path, key, value):
    path = tmp_path / "reward.yaml"
    preferences = {"dataset": "hh_rlhf", "on_overlong": "drop"}
    values = {"name": "x", "model": {"path": str(tiny_folder)}, "preferences": preferences}
    path.write_text(yaml.safe_dump(values))
    parse_score_model(["--config", str(path)])
    with pytest.raises(InputError, match=f"command line: {key} is {value}"):
        parse_score_model(["--config", str(path), f"--{key}", str(value)])


def test_words_of_a_range():
    assert type_name(Annotated[int, annotated_types.Interval(ge=0, lt=5)]) == (
        "an integer of at least 0 and below 5"
    )


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Settings of each kind of number."""

    n: int = 1
    x: float = 1.0
    pair: tuple[float, ...] = ()


@pytest.mark.parametrize(
    "text, n, x", [("010", 10, 10.0), ("+010", 10, 10.0), ("1e3", None, 1000.0), ("1:30", None, None)]
)
def test_a_number_is_the_same_in_a_file_and_in_a_flag(text, n, x):
    """`limit: 010` was 8 in the file and 10 as a flag, and `beta: 1:30` was 90."""
    for key, spelled, value in (
        ("n", text, n),
        ("x", text, x),
        ("pair", f"[{text}]", None if x is None else (x,)),
    ):
        for given in (load_yaml(spelled), spelled):
            if value is None:
                with pytest.raises(SchemaError, match=f"{key} is "):
                    from_mapping(Numbers, {key: given})
            else:
                assert getattr(from_mapping(Numbers, {key: given}), key) == value

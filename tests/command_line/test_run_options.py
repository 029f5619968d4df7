"""The command line of a run: what is parsed, and that each mistake is one line that says how to fix it."""

import dataclasses

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.command_line.yaml_file import read_yaml
from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.scorers import KINDS, ScorerConfig
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.scorers.base import Probe
from cann_jax.scorers.inoffensive import InoffensiveScorer
from cann_jax.scorers.relevance import RelevanceScorer

BASE = """\
name: trial
model: {path: some/model}
prompts: {train: train.jsonl, heldout: heldout.jsonl, on_overlong: error}
reward:
  scorer: {kind: relevance, per_token: true}
constraints:
  safe:
    scorer: {kind: inoffensive, clip: 1e-5}
    margin: 0.5
align: {lora: {rank: 4}, optimizer: {learning_rate: 1e-3}}
evaluate:
  also:
    length: {kind: relevance}
"""


@pytest.fixture
def parse(tmp_path):
    def parse(*flags, text=BASE):
        file = tmp_path / "run.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse_run(["--config", str(file), *flags])

    return parse


@pytest.fixture
def mistake(parse):
    def mistake(*flags, text=BASE):
        with pytest.raises(InputError) as caught:
            parse(*flags, text=text)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return mistake


def test_file_is_read_with_defaults(parse):
    config, options = parse()
    assert (config.name, config.align.lora.rank, config.align.lora.alpha) == ("trial", 4, 16.0)
    assert config.align.optimizer.learning_rate == 1e-3  # YAML 1.1 itself reads 1e-3 as a text
    assert config.reward.scorer == RelevanceScorer(neutral_prompt="Say something.", per_token=True)
    assert config.constraints["safe"].scorer.clip == 1e-5
    names = [stage.name for stage in options.stages]
    assert names == ["sample", "score", "dual", "align", "evaluate", "export"] and not options.dry_run


@pytest.mark.parametrize(
    "flags, read, expected",
    [
        (["--dual.beta", "0.2"], lambda c: c.dual.beta, 0.2),
        (["--dual.beta=2e-1"], lambda c: c.dual.beta, 0.2),
        (["--dual.beta", "0.2", "--dual.beta", "0.3"], lambda c: c.dual.beta, 0.3),
        (["--constraints.safe.margin", "-0.7"], lambda c: c.constraints["safe"].margin, -0.7),
        (["--constraints.safe.scorer.clip", "1e-3"], lambda c: c.constraints["safe"].scorer.clip, 1e-3),
        (["--reward.scorer.per_token", "false"], lambda c: c.reward.scorer.per_token, False),
        (["--align.lora", "null", "--export", "[]"], lambda c: c.align.lora, None),
        (["--align.lora", "null", "--align.lora.rank", "3"], lambda c: c.align.lora.alpha, 16.0),
        (
            ["--dual", "{beta: 0.5, folds: 4}", "--dual.beta", "0.7"],
            lambda c: (c.dual.beta, c.dual.folds),
            (0.7, 4),
        ),
        (["--align.lora.targets", "[o_proj]"], lambda c: c.align.lora.targets, ("o_proj",)),
        (["--name", "123"], lambda c: c.name, "123"),
        (["--prompts.template", "{prompt}: "], lambda c: c.prompts.template, "{prompt}: "),
        (["--prompts.limit", "7"], lambda c: c.prompts.limit, 7),
        (["--evaluate.also.fresh.kind", "relevance"], lambda c: sorted(c.evaluate.also), ["fresh", "length"]),
        (["--reward.scorer", "{kind: inoffensive}"], lambda c: c.reward.scorer.clip, 1e-6),
        (
            ["--constraints.new.scorer.kind", "relevance", "--constraints.new.at_least", "1"],
            lambda c: (c.constraints["new"].at_least, c.constraints["safe"].margin),
            (1.0, 0.5),
        ),
    ],
)
def test_flags_override(parse, flags, read, expected):
    assert read(parse(*flags)[0]) == expected


def test_override_keeps_the_other_keys_of_a_mapping(parse):
    also = parse("--evaluate.also.length.per_token", "false")[0].evaluate.also
    assert also == {"length": RelevanceScorer(per_token=False)}


def test_override_leaves_an_aliased_mapping_alone(parse):
    text = BASE.replace("scorer: {kind: relevance", "scorer: &s {kind: relevance").replace(
        "length: {kind: relevance}", "length: *s"
    )
    config = parse("--reward.scorer.per_token", "false", text=text)[0]
    assert config.reward.scorer.per_token is False
    assert config.evaluate.also["length"].per_token is True


def test_yaml_merge_key_may_be_overridden(parse):
    text = BASE + "    other: {<<: {kind: relevance, per_token: true}, per_token: false}\n"
    assert parse(text=text)[0].evaluate.also["other"].per_token is False


def test_options(parse):
    _, options = parse("--stages", "score,sample", "--dry_run")
    assert [stage.name for stage in options.stages] == ["sample", "score"] and options.dry_run
    assert parse("--dry_run", "--dual.beta", "1")[1].dry_run is True


@pytest.mark.parametrize(
    "old, new, key, near",
    [
        ("name: trial", "nme: trial", "nme", "name"),
        ("rank: 4", "rnk: 4", "align.lora.rnk", "align.lora.rank"),
        ("learning_rate", "leaning_rate", "align.optimizer.leaning_rate", "align.optimizer.learning_rate"),
        ("margin: 0.5", "margn: 0.5", "constraints.safe.margn", "constraints.safe.margin"),
        ("clip: 1e-5", "clp: 1e-5", "constraints.safe.scorer.clp", "constraints.safe.scorer.clip"),
        ("per_token: true", "per_tokn: true", "reward.scorer.per_tokn", "reward.scorer.per_token"),
        ("{kind: relevance}", "{kind: relevance, n: 1}", "evaluate.also.length.n", "evaluate.also.length."),
        ("name: trial", "name: trial\nwarmup_steps: 3", "warmup_steps", "align.optimizer.warmup_steps"),
    ],
)
def test_unknown_key_in_file_names_key_file_and_nearest(mistake, tmp_path, old, new, key, near):
    message = mistake(text=BASE.replace(old, new, 1))
    assert message.startswith(f"{tmp_path / 'run.yaml'}: {key} is not a key; did you mean {near}")


@pytest.mark.parametrize(
    "flags, key, near",
    [
        (["--dual.bet", "1"], "dual.bet", "dual.beta"),
        (["--beta", "1"], "beta", "dual.beta"),
        (
            ["--constraints.safe.scorer.clp", "1"],
            "constraints.safe.scorer.clp",
            "constraints.safe.scorer.clip",
        ),
        (["--stage", "sample"], "--stage", "--stages"),
        (["--dry-run"], "--dry-run", "--dry_run"),
    ],
)
def test_unknown_flag_names_nearest(mistake, flags, key, near):
    message = mistake(*flags)
    assert message.startswith(f"command line: {key} is not a")
    assert message.endswith(f"did you mean {near}?")


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("name: trial", "name: 5", "name is 5; it must be text"),
        ("name: trial", "name: null", "name is null; it must be text"),
        ("name: trial", "name: trial\nseed: 1.5", "seed is 1.5; it must be an integer"),
        ("name: trial", "name: trial\nseed: yes", "seed is True; it must be an integer"),
        ("name: trial", "name: trial\ndual: 5", "dual is 5; it must be a mapping"),
        ("name: trial", "name: trial\ndual: {beta: .inf}", "dual.beta is inf; it must be a finite number"),
        (
            "margin: 0.5",
            "margin: much",
            "constraints.safe.margin is 'much'; it must be a finite number or null",
        ),
        ("error}", "eror}", "on_overlong is 'eror'; it must be one of error, drop, truncate_prompt_left"),
        ("per_token: true", "per_token: 3", "reward.scorer.per_token is 3; it must be true or false"),
        ("rank: 4", "targets: [1]", "align.lora.targets is [1]; it must be a list like [a, b]"),
        ("safe:", "a.b:", "constraints holds the name 'a.b'"),
        ("safe:", "no:", "constraints holds the name False"),
    ],
)
def test_wrong_value_says_what_was_given_and_expected(mistake, old, new, problem):
    assert problem in mistake(text=BASE.replace(old, new, 1))


@pytest.mark.parametrize(
    "gone, problem",
    [
        ("name: trial\n", "name is missing"),
        ("model: {path: some/model}\n", "model.path is missing"),
        (", on_overlong: error", "prompts.on_overlong is missing; it must be one of error"),
        ("kind: inoffensive, ", "constraints.safe.scorer.kind is missing; it must be one of relevance"),
    ],
)
def test_missing_key(mistake, tmp_path, gone, problem):
    message = mistake(text=BASE.replace(gone, "", 1))
    assert message.startswith(f"{tmp_path / 'run.yaml'}: {problem}")


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["left"], "unexpected 'left'"),
        (["--dual.beta"], "--dual.beta needs a value"),
        (["--dual.beta", "--seed", "1"], "--dual.beta needs a value"),
        (["--dual.beta", "hello"], "command line: dual.beta is 'hello'; it must be a finite number"),
        (["--name.x", "1"], "--name.x: name is 'trial' and holds no keys"),
        (["--stages", "sample,scor"], "no stage 'scor'; did you mean score?"),
        (["--stages", ""], "no stage ''; the stages are pairs, prealign,"),
        (["--dual.multipliers", "{safe:1}"], "dual.multipliers holds 'safe:1' without a value; put a space"),
        (
            ["--dual", "{beta:0.5}"],
            "dual holds 'beta:0.5' without a value; put a space after the colon: beta: 0.5",
        ),
        (["--dual", "[1]", "--dual.beta", "0.7"], "--dual.beta: dual is '[1]' and holds no keys"),
        (["--stages", "pairs"], "the stage 'pairs' only when there is a section `preferences`"),
        (["--config", "other.yaml"], "--config is given twice"),
        (["--dry_run", "maybe"], "dry_run is 'maybe'; it must be true or false"),
        (["--reward.scorer.kind", "relevnce"], "reward.scorer.kind is 'relevnce'; did you mean relevance?"),
        (["--reward.scorer", "["], "reward.scorer is '['; it must be a mapping"),
        (["--dual.beta", "0"], "dual.beta is 0.0; it must be a finite number above 0"),
        (["--constraints.safe.at_least", "1"], "constraints.safe needs exactly one of"),
    ],
)
def test_bad_flag(mistake, flags, problem):
    assert problem in mistake(*flags)


@pytest.mark.parametrize(
    "flags, problem",
    [
        (
            ["--constraints.saef.margin", "1"],
            "--constraints.saef.margin: FILE has no constraints.saef, only safe (did you mean "
            "--constraints.safe.margin?), and constraints.saef.scorer.kind is missing; it must be one of ",
        ),
        (
            ["--constraints.polite.scorer.per_token", "true"],
            "--constraints.polite.scorer.per_token: FILE has no constraints.polite, only safe, and cons",
        ),
        (
            ["--evaluate.also.lenght.per_token", "true"],
            "--evaluate.also.lenght.per_token: FILE has no evaluate.also.lenght, only length (did you mean "
            "--evaluate.also.length.per_token?), and evaluate.also.lenght.kind is missing",
        ),
        (["--reward.scorer", "{kind: relevance, n: 1}"], "reward.scorer.n is not a key"),
        (["--dual.multipliers.saef", "1"], "dual.multipliers.saef is no score; the scores are reward, safe"),
        (["--dual.multipliers.zafe", "1"], "dual.multipliers.zafe is no score; the scores are reward, safe"),
        (
            ["--constraints", "{safe: {margin: 0.1}, safe: {margin: 0.9}}"],
            "constraints is '{safe: {margin: 0.1}, safe: {margin: 0.9}}'; key 'safe' is given twice",
        ),
        (
            ["--constraints", "{safe: {}, safe: {}}", "--constraints.safe.margin", "1"],
            "'{safe: {}, safe: {}}': key 'safe' is given twice",
        ),
        (["--preferences.limit", "5"], "preferences.dataset is missing"),
        (["--sample.responses", "3", "--align.group_size", "4"], "align.group_size is 4; use 2 up to"),
        (["--evaluate.also.safe.kind", "relevance"], "evaluate.also.safe has the name of a constraint"),
        (["--rounds", "2", "--align.dial", "true"], "align.dial is true, and rounds train on r_λ"),
        (["--prompts.calibration", "a.jsonl", "--align.lora", "null", "--export", "[]"], "prompts.calib"),
    ],
)
def test_what_a_flag_has_caused_is_not_blamed_on_the_file(mistake, tmp_path, flags, problem):
    message = mistake(*flags).replace(str(tmp_path / "run.yaml"), "FILE")
    assert message.startswith(f"command line: {problem}")


def test_a_flag_has_caused_what_is_wrong_in_a_file_that_is_right_by_itself(mistake):
    text = BASE.replace("align: {", "align: {group_size: 4, ")
    assert mistake("--sample.responses", "3", text=text).startswith(
        "command line: align.group_size is 4; use"
    )


def test_what_the_file_has_caused_is_not_blamed_on_a_flag(mistake, tmp_path):
    text = BASE.replace("rank: 4", "rnk: 4").replace("name: trial\n", "")
    message = mistake("--name", "x", "--dual.beta", "1", text=text)
    assert message.startswith(f"{tmp_path / 'run.yaml'}: align.lora.rnk is not a key")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("name: [a\nb: }", "run.yaml, line 2: is not valid YAML"),
        (
            BASE.replace("margin: 0.5", "margin: 0.5\n    margin: 0.6"),
            "line 10: is not valid YAML (key 'margin'",
        ),
        ("", "run.yaml: holds no settings"),
        ("- a", "run.yaml: holds no settings"),
        ("? [a]\n: 1", "run.yaml, line 1: is not valid YAML"),
        (b"\xff\xfe", "run.yaml: is not UTF-8 text"),
        (b"a\x00b", "run.yaml: is not valid YAML"),
    ],
)
def test_bad_file(mistake, text, problem):
    assert problem in mistake(text=text)


def test_missing_file_and_missing_flag():
    with pytest.raises(InputError, match=r"^nowhere\.yaml: .*No such file"):
        parse_run(["--config", "nowhere.yaml"])
    with pytest.raises(InputError, match="--config is missing"):
        parse_run(["--dry_run"])


def test_scorer_of_a_kind():
    assert from_mapping(ScorerConfig, {"kind": "relevance", "per_token": False}, "k") == RelevanceScorer(
        per_token=False
    )
    probe = {"prompt": "p", "better": "b", "worse": "w"}
    made = from_mapping(ScorerConfig, {"kind": "inoffensive", "probe": probe}, "k")
    assert made == InoffensiveScorer(probe=Probe(**probe))


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"kind": "colum"}, "k.kind is 'colum'; did you mean column?"),
        ({"kind": ["column"]}, "k.kind is"),
        (
            {"kind": "column", "path": "p", "column": "c"},
            "k.better is missing; it must be one of higher, lower",
        ),
        ({"kind": "inoffensive", "probe": {"prompt": "p", "beter": ""}}, "did you mean k.probe.better?"),
    ],
)
def test_scorers_that_are_refused(values, problem):
    with pytest.raises(InputError) as caught:
        from_mapping(ScorerConfig, values, "k")
    assert problem in str(caught.value)


def test_a_configuration_builds_itself_again_from_json(parse):
    config = parse()[0]
    assert from_mapping(RunConfig, as_json(config)) == config


def test_help_names_every_key_with_its_meaning(parse, capsys):
    config = parse("--preferences", "{dataset: hh_rlhf, on_overlong: drop}")[0]
    with pytest.raises(SystemExit) as stopped:
        parse_run(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    words = " ".join(text.split())
    for key in _keys(dataclasses.asdict(config)):
        assert f"--{key} " in words, key
    for kind in KINDS:
        assert f"SCORER of 'kind: {kind}'" in text
    assert "Rank r. (an integer of at least 1; default: 8)" in words
    assert "--SCORER.probe.worse WORSE The response that must score lower." in words
    assert "--constraints.safe.margin 0.7" in words


def _keys(values, above=""):
    """Every dotted key of a configuration, as the help writes it."""
    for name, value in values.items():
        key = above + ("NAME" if above == "constraints." else name)
        if isinstance(value, dict) and name not in ("scorer", "also"):
            yield from _keys(value, key + ".")
        else:
            yield f"{key}.NAME.kind" if name == "also" else f"{key}.kind" if name == "scorer" else key


def test_read_yaml_keeps_plain_values(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, x]}\n")
    assert read_yaml(str(tmp_path / "a.yaml")) == {"a": {"b": [1, "x"]}}

"""The command line: a YAML file and dotted flags into one checked ``RunConfig``; help; the error handler."""

import dataclasses
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from cann_jax.command_line.help import REWARD, TRAIN, help_text
from cann_jax.config.prealign import all_to_prealign
from cann_jax.config.run import RunConfig, check_run, scorers_of
from cann_jax.config.schema import SchemaError, from_mapping, nearest
from cann_jax.config.score_model import ScoreModelConfig, check_score_model
from cann_jax.config.scorers import scorer_from_dict
from cann_jax.files.errors import InputError, Preempted
from cann_jax.runtime import distributed

_NEEDS = {
    "pairs": "the section preferences",
    "prealign": "a scorer of kind implicit with prealigned.preference",
    "pair_scores": "align.pairs: dataset with align.preference: pseudo_reward",
    "rounds": "rounds of 2 or more",
}
STAGES = ("pairs", "prealign", "sample", "score", "dual", "pair_scores", "align", "rounds", "evaluate")


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for besides the configuration's own keys.

    Args:
        config: The run's YAML file.
        stages: Only these stages, for example ``sample,score``.
        dry_run: Check configuration, files, shapes and memory, and compute nothing.
        model_config: A config.json; the dry run goes by it and opens no model, where none is at hand.
    """

    config: str
    stages: str | None = None
    dry_run: bool = False
    model_config: str | None = None


@dataclasses.dataclass(frozen=True)
class ScoreModelCommand:
    """What the command line of a score model asks for besides the configuration's own keys.

    Args:
        config: Its YAML file.
        dry_run: Check configuration, files, shapes and memory, and compute nothing.
        model_config: A config.json; the dry run goes by it and opens no model, where none is at hand.
    """

    config: str
    dry_run: bool = False
    model_config: str | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do with the configuration.

    Args:
        stages: The stages to run, in their order.
        dry_run: Check, and compute nothing.
        model_config: What the dry run takes for the model.
    """

    stages: tuple[str, ...]
    dry_run: bool
    model_config: str | None = None


def parse_run(argv: Sequence[str]) -> tuple[RunConfig, Options]:
    """Read ``--config FILE.yaml`` and the flags over it, and check everything that needs no other file.

    The scorers' dictionaries in the result are complete: every default is filled in.

    Raises:
        InputError: One line that names the key, where it was given, and the mend.
        SystemExit: After ``--help``.
    """
    config, command = _parsed(argv, TRAIN, Command, RunConfig, _run_config)
    return config, Options(_stages(command.stages, config), command.dry_run, command.model_config)


def parse_score_model(argv: Sequence[str]) -> tuple[ScoreModelConfig, ScoreModelCommand]:
    """As ``parse_run``, for ``python -m cann_jax.reward``.

    Raises:
        InputError: One line that names the key, where it was given, and the mend.
        SystemExit: After ``--help``.
    """
    return _parsed(argv, REWARD, ScoreModelCommand, ScoreModelConfig, _score_model_config)


def _parsed(argv: Sequence[str], program: str, command: type, schema: type, build: Callable) -> tuple:
    """The configuration, and what the command line asks for besides."""
    if {"-h", "--help"} & set(argv):
        print(help_text(program, command, schema))
        raise SystemExit(0)
    names = [item.name for item in dataclasses.fields(command)]
    flags = _split_flags(argv, names, schema)
    asked = _build(lambda: from_mapping(command, _command_values(flags, names)), "command line", ())
    if asked.model_config is not None and not asked.dry_run:
        raise InputError("command line: --model_config belongs to --dry_run; add that, or leave it out")
    overrides = [(key, value) for key, value in flags if key not in names]
    values = read_yaml(asked.config)
    for flag in overrides:
        values = _overridden(values, flag[0].split("."), flag)
    return _build(lambda: build(values), asked.config, [key for key, _ in overrides]), asked


def run_command(main: Callable[[Sequence[str]], None]) -> int:
    """Exit status of ``main(argv)``: bad input is one line on stderr, a bug keeps its traceback."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        # In one piece: several processes may write to one terminal at once.
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return distributed.left(error.exit_status)
    except Preempted as stopped:
        print("stopped:", stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("interrupted; start again to go on with what is finished", file=sys.stderr)
        return 130
    return 0


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: No such file, bad syntax, a key given twice (with the line), or something not a mapping.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give --config an existing YAML file"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_yaml_problem(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings; write 'key: value' lines, --help lists the keys")
    return values


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    first_line = str(error).splitlines()[0]
    line = "" if mark is None else f", line {mark.line + 1}"
    return f"{line}: is not valid YAML ({getattr(error, 'problem', None) or first_line})"


def _split_flags(argv: Sequence[str], names: Sequence[str], schema: type) -> list[tuple[str, str]]:
    """``--key value`` and ``--key=value`` as pairs; a bare ``--dry_run`` means true."""
    flags, tokens = [], list(argv)
    while tokens:
        flag, has_value, value = tokens.pop(0).partition("=")
        if not flag.startswith("--") or flag == "--":
            raise InputError(f"command line: unexpected {flag!r}; settings are given as --key value")
        _check_own_flag(flag, names, schema)
        if not has_value:
            bare = not tokens or tokens[0].startswith("--")
            if bare and flag != "--dry_run":
                raise InputError(f"command line: {flag} needs a value; write {flag} VALUE")
            value = "true" if bare else tokens.pop(0)
        flags.append((flag[2:], value))
    return flags


def _check_own_flag(flag: str, names: Sequence[str], schema: type) -> None:
    """Refuse ``--stage`` or ``--dry-run``, which would else be looked up among the configuration's keys."""
    close = difflib.get_close_matches(flag[2:], [*names, *get_type_hints(schema)], n=1)
    if close and close[0] in names and flag[2:] not in names:
        raise InputError(f"command line: {flag} is not an option; did you mean --{close[0]}?")


def _command_values(flags: list[tuple[str, str]], names: Sequence[str]) -> dict[str, str]:
    given = [key for key, _ in flags if key in names]
    for key in given:
        if given.count(key) > 1:
            raise InputError(f"command line: --{key} is given twice; give it once")
    if "config" not in given:
        raise InputError("command line: --config FILE.yaml is missing; --help lists every key")
    return {key: value for key, value in flags if key in names}


def _overridden(values: dict[str, Any], path: Sequence[str], flag: tuple[str, str]) -> dict[str, Any]:
    """A copy with the flag's value at ``path``; copies, because YAML anchors share mappings between keys."""
    name, *rest = path
    if not rest:
        return {**values, name: flag[1]}
    inner = values.get(name)
    inner = None if inner == "null" else inner  # as a flag before this one spelt it
    if not isinstance(inner, dict | None):
        above = ".".join(flag[0].split(".")[: -len(rest)])
        raise InputError(f"command line: --{flag[0]}: {above} is {inner!r} and holds no keys")
    return {**values, name: _overridden(inner or {}, rest, flag)}


def _score_model_config(values: Mapping[str, Any]) -> ScoreModelConfig:
    config = from_mapping(ScoreModelConfig, values)
    check_score_model(config)
    return config


def _run_config(values: Mapping[str, Any]) -> RunConfig:
    config = _with_full_scorers(from_mapping(RunConfig, values))
    check_run(config)
    return config


def _with_full_scorers(config: RunConfig) -> RunConfig:
    """The configuration with every scorer's dictionary checked and its defaults filled in."""
    replace = dataclasses.replace
    reward = replace(config.reward, scorer=_full_scorer(config.reward.scorer, "reward.scorer"))
    constraints = {
        name: replace(item, scorer=_full_scorer(item.scorer, f"constraints.{name}.scorer"))
        for name, item in config.constraints.items()
    }
    also = {name: _full_scorer(item, f"evaluate.also.{name}") for name, item in config.evaluate.also.items()}
    evaluate = replace(config.evaluate, also=also)
    return replace(config, reward=reward, constraints=constraints, evaluate=evaluate)


def _full_scorer(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"kind": values.get("kind"), **dataclasses.asdict(scorer_from_dict(values, key))}


def _build(build: Callable[[], Any], file: str, overridden: Sequence[str]) -> Any:
    """Run ``build``; a mistake says whether a flag or the file made it."""
    try:
        return build()
    except SchemaError as error:
        by_flag = any(error.key == key or key.startswith(f"{error.key}.") for key in overridden)
        raise InputError(f"{'command line' if by_flag else file}: {error}") from None


def _stages(text: str | None, config: RunConfig) -> tuple[str, ...]:
    """The stages of this configuration, or those of them that were asked for."""
    align = config.align
    absent = {
        "pairs": config.preferences is None,
        "prealign": not all_to_prealign(scorers_of(config).values()),
        "pair_scores": align.pairs != "dataset" or align.preference != "pseudo_reward",
        "rounds": config.rounds == 1,
    }
    there = tuple(name for name in STAGES if not absent.get(name))
    if text is None:
        return there
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in STAGES:
            raise InputError(
                f"command line: --stages: there is no stage {name!r}; did you mean {nearest(name, STAGES)}? "
                f"The stages are {', '.join(STAGES)}"
            )
        if name not in there:
            raise InputError(f"command line: --stages: the stage {name!r} needs {_NEEDS[name]}; add it")
    return tuple(name for name in there if name in asked)

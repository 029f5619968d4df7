"""Which columns of a table hold its scores, and whether it has a row for each response or for each prompt."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from cann_jax.analysis.columns import holds_numbers, is_list, is_numeric
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import refuse_doubled
from cann_jax.files.errors import InputError, hint

LONG, WIDE = "long", "wide"


@dataclass(frozen=True)
class Layout:
    """Where a table holds what.

    Attributes:
        path: Its file, for messages.
        shape: ``LONG`` or ``WIDE``.
        scores: Each score's columns by its name: one, or numbered ones.
        prompt: The prompts' column; None in wide tables without one.
        response: The responses' column, if there is one.
        weights: The column of prompt weights, if there is one.
        groups: Columns of groups.
        drop_missing: Whether rows, and responses of wide tables, that lack something are left out.
        counter: As in ``RawTable``.
    """

    path: str
    shape: str
    scores: Mapping[str, list[str]]
    prompt: str | None
    response: str | None
    weights: str | None
    groups: tuple[str, ...]
    drop_missing: bool
    counter: str | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        others = [self.prompt, self.response, self.weights, *self.groups]
        every = [*(part for parts in self.scores.values() for part in parts), *others]
        return list(dict.fromkeys(name for name in every if name is not None))


def layout_of(path: str, schema: pa.Schema, flags: DualFlags, wanted: list[str]) -> Layout:
    """Return where a table holds what the flags name.

    Args:
        path: Its file, for messages.
        schema: Names and plain types of its columns, without features.
        flags: They name the columns.
        wanted: Names of the constraint scores; if empty, every numeric column is one.

    Raises:
        InputError: A column is missing (the message names the nearest one), stands there twice or holds
            something other than numbers, or numbered columns do not fit together.
    """
    refuse_doubled(path, schema.names)
    # A name that the user gives has to be there; the usual names need not be.
    given = [flags.prompt_weights, *flags.groups]
    given += [
        name for name, usual in ((flags.prompt, "prompt"), (flags.response, "response")) if name != usual
    ]
    require(path, [name for name in given if name is not None], schema.names, flags)
    wide = _wide_scores(schema, flags.reward)
    if wide is None:
        require(path, [flags.prompt, flags.reward, *wanted], schema.names, flags)
        scores = {name: [name] for name in [flags.reward, *(wanted or _other_numbers(schema, flags))]}
    else:
        _check_wide(path, wanted, wide, schema)
        others = wanted or _other_wide(schema, wide, flags)
        scores = {name: wide[name] for name in dict.fromkeys([flags.reward, *others])}
        _check_numbering(path, flags.reward, scores)
    for name in (column for parts in scores.values() for column in parts):
        kind = schema.field(name).type
        require_numbers(path, name, kind, kind.value_type if wide is not None and is_list(kind) else kind)
    if flags.prompt_weights is not None:
        kind = schema.field(flags.prompt_weights).type
        require_numbers(path, flags.prompt_weights, kind, kind)
    return Layout(
        path=path,
        shape=LONG if wide is None else WIDE,
        scores=scores,
        prompt=flags.prompt if wide is None or flags.prompt in schema.names else None,
        response=flags.response if wide is None and flags.response in schema.names else None,
        weights=flags.prompt_weights,
        groups=flags.groups or (("group",) if "group" in schema.names else ()),
        drop_missing=flags.drop_missing,
    )


def require(path: str, names: Iterable[str], known: Iterable[str], flags: DualFlags | None = None) -> None:
    """Check that a table has the columns ``names``.

    Raises:
        InputError: A column is missing; the message names the nearest one that exists, or all, and the flag
            that names another where the column has a usual name.
    """
    known, by_flag = list(known), {flags.reward: "--reward", flags.prompt: "--prompt"} if flags else {}
    for name in names:
        if name not in known:
            there = hint(name, known, "columns") if known else "it has no columns"
            other = f"; {by_flag[name]} COLUMN names another" if name in by_flag else ""
            raise InputError(f"{path}: no column {name}; {there}{other}")


def require_numbers(path: str, name: str, kind: pa.DataType, value: pa.DataType) -> None:
    """Check that the values of a column of this kind, each of type ``value``, can be read as numbers.

    Raises:
        InputError: They are of another type, such as times.
    """
    if not holds_numbers(value):
        raise InputError(f"{path}: column {name} holds {kind}, not numbers; convert it or drop it")


def feature_columns(path: str, columns: Iterable[str], flags: DualFlags, wanted: Iterable[str]) -> list[str]:
    """Return the column that ``--features`` names, or its numbered columns; none if it names a file."""
    name = flags.features
    if name is None or flags.features_file:
        return []
    columns = list(columns)
    by_name = numbered(columns)
    require(path, [name], [*columns, *by_name])
    if name in (flags.prompt, flags.response, flags.reward, flags.prompt_weights, *flags.groups, *wanted):
        raise InputError(f"--features {name}: this column has another purpose; name one that holds features")
    return [name] if name in columns else by_name[name]


def numbered(columns: Iterable[str]) -> dict[str, list[str]]:
    """Return the columns NAME_0, NAME_1, … in order, by their name."""
    found: dict[str, list[str]] = {}
    for column in columns:
        match = re.fullmatch(r"(.+)_(\d+)", column, re.ASCII)
        if match:
            found.setdefault(match[1], []).append(column)
    return {name: sorted(parts, key=_number) for name, parts in found.items()}


def _number(column: str) -> int:
    return int(column.rpartition("_")[2])


def _wide_scores(schema: pa.Schema, reward: str) -> dict[str, list[str]] | None:
    """Return each score's columns by its name if the table has a row for each prompt; None if it is long."""
    if reward in schema.names and is_list(schema.field(reward).type):
        return {f.name: [f.name] for f in schema if is_list(f.type) and holds_numbers(f.type.value_type)}
    found = numbered(schema.names)
    return None if reward in schema.names or reward not in found else found


def _check_wide(path: str, names: list[str], wide: Mapping[str, list[str]], schema: pa.Schema) -> None:
    for name in names:
        if name in schema.names and name not in wide:
            kind = schema.field(name).type
            raise InputError(
                f"{path}: column {name} holds {kind}; give a list for each prompt, as the reward's"
            )
    require(path, names, wide)


def _other_numbers(schema: pa.Schema, flags: DualFlags) -> list[str]:
    return [field.name for field in schema if field.name not in _apart(flags) and is_numeric(field.type)]


def _other_wide(schema: pa.Schema, wide: Mapping[str, list[str]], flags: DualFlags) -> list[str]:
    """Return the names of a wide table's other scores; lists of texts, such as the responses, are none."""

    def is_score(columns: Iterable[str]) -> bool:
        kinds = [schema.field(column).type for column in columns]
        return all(is_numeric(kind.value_type if is_list(kind) else kind) for kind in kinds)

    return [name for name, columns in wide.items() if name not in _apart(flags) and is_score(columns)]


def _apart(flags: DualFlags) -> set[str | None]:
    """Return the names of columns that are no constraints unless they are named."""
    return {flags.prompt, flags.response, flags.reward, flags.prompt_weights, "group", *flags.groups}


def _check_numbering(path: str, reward: str, scores: Mapping[str, list[str]]) -> None:
    """Check that numbered columns number the same responses."""
    if scores[reward] == [reward]:
        return
    expected = [_number(column) for column in scores[reward]]
    if len(set(expected)) < len(expected):
        raise InputError(f"{path}: two columns {reward}_N have one number; rename one")
    for name, parts in scores.items():
        _check_same(path, name, parts, reward, expected)


def check_feature_numbers(path: str, layout: Layout, name: str, features: list[str]) -> None:
    """Check that numbered columns of features number the responses of a wide table, as its scores do.

    Raises:
        InputError: They do not: emb_0 stood for reward_1, and a verdict was about another response.
    """
    if layout.shape == LONG or features in ([], [name]):
        return
    reward, parts = next(iter(layout.scores.items()))
    if parts != [reward]:
        _check_same(path, name, features, reward, [_number(column) for column in parts])
        return
    found = [_number(column) for column in features]
    if found != list(range(found[0], found[0] + len(found))):
        raise InputError(
            f"{path}: columns of {name} are numbered {_listed(found)}; leave none out, one for each response"
        )


def _check_same(path: str, name: str, columns: list[str], reward: str, expected: list[int]) -> None:
    found = [_number(column) for column in columns]
    if found != expected:
        raise InputError(
            f"{path}: columns of {name} are numbered {_listed(found)}, those of {reward} "
            f"{_listed(expected)}; give both the same numbers"
        )


def _listed(values: list[int]) -> str:
    if values == list(range(values[0], values[0] + len(values))) and len(values) > 2:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))

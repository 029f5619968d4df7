"""The constraints, groups and bounds that the dual command's flags state."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cann_jax.analysis.flags import DualFlags
from cann_jax.core.prepare import check_constraints
from cann_jax.core.problem import Constraint
from cann_jax.files.errors import InputError, nearest
from cann_jax.files.numbers import counted


def as_levels(flags: DualFlags) -> DualFlags:
    """Return flags that ask ``--at_most`` and ``--unsafe_above`` of -NAME, by ``--cost``.

    Raises:
        InputError: A value is not a number, or has no name; ``--unsafe_above`` bounds no share, or a score
            that has another bound; or the reward, of which more is better, has an upper bound.
    """
    at_most = [_turned("--at_most", *_split("--at_most", goal)) for goal in flags.at_most]
    above = [_turned("--unsafe_above", *pair) for pair in _by_name("--unsafe_above", flags.unsafe_above)]
    shares = {goal.rpartition("=")[0].partition("@")[0] for goal in flags.max_unsafe}
    below = _bounded_below(flags)
    for name, _ in above:
        if "" not in shares and name not in shares:  # "": one of a value without a name
            raise InputError(
                f"--unsafe_above {name}: no --max_unsafe is about it; add one or leave the flag out"
            )
        if name in below:
            raise InputError(f"--unsafe_above {name}: --unsafe_below bounds it too; give one of them")
    costs = [target.partition("@")[0] for target, _ in at_most + above]
    if flags.reward in costs and flags.reward not in flags.cost:
        raise InputError(
            f"{flags.reward} is the reward, of which more is better, and has an upper bound; where less is "
            f"better add --cost {flags.reward}"
        )
    return dataclasses.replace(
        flags,
        at_least=(*flags.at_least, *(f"{target}={value!r}" for target, value in at_most)),
        unsafe_below=(*flags.unsafe_below, *(f"{name}={value!r}" for name, value in above)),
        cost=(*flags.cost, *(name for name in dict.fromkeys(costs) if name not in flags.cost)),
        at_most=(),
        unsafe_above=(),
    )


def _turned(flag: str, name: str, value: str) -> tuple[str, float]:
    """Return a name, and its value with the sign changed."""
    return name, 0.0 - _number(f"{flag} {name}", value)


def _bounded_below(flags: DualFlags) -> set[str]:
    return {bound.rpartition("=")[0] for bound in flags.unsafe_below}


def threshold_notes(flags: DualFlags, constraints: Iterable[Constraint]) -> list[str]:
    """Return a sentence about each cost whose share of unsafe responses is asked for without a threshold."""
    costs = {c.name for c in constraints if c.cost and c.max_unsafe is not None} - _bounded_below(flags)
    return [
        f"{name}: a response above 0 is unsafe, by default; --unsafe_above {name}=VALUE sets another bound."
        for name in sorted(costs)
    ]


def names_asked(flags: DualFlags) -> list[str]:
    """Return the names of the scores that the goals mention; empty where a value has no name."""
    goals = [goal for _, goal in flags.goals]
    if not all("=" in goal for goal in goals):
        return []
    return list(dict.fromkeys(goal.rpartition("=")[0].partition("@")[0] for goal in goals))


def constraints_asked(flags: DualFlags, available: Sequence[str]) -> list[Constraint]:
    """Return the constraints that the flags state; values without a name go to ``available`` in order.

    Raises:
        InputError: There is no goal, a value is not a number, values without a name do not match the table's
            constraints, two goals are about the same, or a flag changes nothing.
    """
    goals = flags.goals
    if not goals:
        raise InputError("no constraint is given; give --margin, --at_least, --at_most or --max_unsafe")
    for kind, goal in goals:
        if "=" not in goal and goal.partition("@")[0] in available:
            raise InputError(f"--{kind} {goal}: has no value; write one, such as --{kind} {goal}=0.3")
    unnamed = [goal for _, goal in goals if "=" not in goal]
    if unnamed and len(unnamed) != len(available):
        more = "more" if len(unnamed) > len(available) else "fewer"
        raise InputError(
            f"{counted(len(unnamed), 'value')} without a name, {more} than the table's "
            f"{counted(len(available), 'constraint')} "
            f"({', '.join(available) or 'none'}); write --{goals[0][0]} NAME={unnamed[0]}"
        )
    names = iter(available)
    unsafe = {
        name: _number("--unsafe_below", value)
        for name, value in _by_name("--unsafe_below", flags.unsafe_below)
    }
    clips = clip_bounds(flags)
    found = []
    for kind, goal in goals:
        target, value = _split(f"--{kind}", goal) if "=" in goal else (next(names), goal)
        name, _, group = target.partition("@")
        asked = {kind: _number(f"--{kind} {target}", value)}
        if kind == "max_unsafe":
            asked["unsafe_below"] = unsafe.get(name, 0.0)
        found.append(
            Constraint(name, group=group or None, clip=clips.get(name), cost=name in flags.cost, **asked)
        )
    check_constraints(found)
    _refuse_unused(flags, found, set(unsafe), set(clips))
    return found


def _refuse_unused(flags: DualFlags, found: list[Constraint], unsafe: set[str], clips: set[str]) -> None:
    """Check that each flag about a score, or about groups, changes something."""
    constrained = {constraint.name for constraint in found}
    chances = {constraint.name for constraint in found if constraint.max_unsafe is not None}
    every = constrained | {flags.reward}
    unused = [("--unsafe_below", name, "no --max_unsafe is about it") for name in sorted(unsafe - chances)]
    unused += [("--clip", name, "there is no constraint on it") for name in sorted(clips - every)]
    unused += [("--cost", name, "there is no constraint on it") for name in flags.cost if name not in every]
    if flags.stream and not any(constraint.group for constraint in found):
        what = "no goal is about a group (NAME@GROUP=VALUE), and --stream reports none"
        unused += [("--groups", name, what) for name in flags.groups]
    for flag, name, reason in unused:
        near = None if flag == "--groups" or name in every else nearest(name, sorted(every))
        mend = f"did you mean {near}?" if near else "add one or leave the flag out"
        raise InputError(f"{flag} {name}: {reason}; {mend}")
    for flag, given in (("--cost", flags.cost), ("--groups", flags.groups)):
        _refuse_twice(flag, given)


def clip_bounds(flags: DualFlags) -> dict[str, tuple[float, float]]:
    """Return the bounds (low, high) of each score that is clipped, by its name."""
    bounds = {}
    for name, value in _by_name("--clip", flags.clip):
        low, comma, high = value.partition(",")
        if not comma:
            raise InputError(f"--clip {name}={value}: give two bounds, NAME=LOW,HIGH")
        bounds[name] = (_number(f"--clip {name}", low), _number(f"--clip {name}", high))
        if not bounds[name][0] < bounds[name][1]:
            raise InputError(
                f"--clip {name}={value}: the first bound is not below the second; write LOW,HIGH"
            )
    return bounds


def group_names(columns: Mapping[str, Iterable[str] | None]) -> dict[str, str]:
    """Return the column of each group by the group's name.

    Args:
        columns: The groups that a column names; None: it holds booleans, and names one by its own name.

    Raises:
        InputError: Two columns name one group.
    """
    found: dict[str, str] = {}
    for column, values in columns.items():
        for name in [column] if values is None else sorted(set(values)):
            if name in found:
                raise InputError(f"--groups: {name} is a group of {found[name]} and of {column}; rename one")
            found[name] = column
    return found


def groups_of(column: np.ndarray) -> set[str] | None:
    """Return the groups that a table's column names, as ``group_names`` takes them."""
    return None if column.dtype == bool else {value for value in column if value is not None}


def group_members(columns: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return which prompts each group of ``group_names`` has, ``(prompts,)`` bool by the group's name."""
    return {
        name: columns[column] if columns[column].dtype == bool else columns[column] == name
        for name, column in names.items()
    }


def _by_name(flag: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [_split(flag, text) for text in given]
    _refuse_twice(flag, [name for name, _ in pairs])
    return pairs


def _refuse_twice(flag: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{flag} {name}: given {names.count(name)} times; give it once")


def _split(flag: str, text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign:
        raise InputError(f"{flag} {text}: write {flag} NAME=VALUE")
    return name, value


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a number; write {_meant(text)}") from None


def _meant(text: str) -> str:
    """Return the number that a text seems to be, as it is to be written; else an example."""
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%").replace(",", "."))
    except ValueError:
        return "one, such as NAME=0.3"
    return f"{value / 100 if share else value:.10g}"

"""The constraints, groups and bounds that the dual command's flags state."""

from collections.abc import Mapping, Sequence

import numpy as np

from cann_jax.analysis.flags import DualFlags
from cann_jax.core.problem import Constraint
from cann_jax.files.errors import InputError


def names_asked(flags: DualFlags) -> list[str]:
    """Return the names of the scores that the goals mention; empty where a value has no name."""
    goals = [goal for _, goal in flags.goals]
    if not all("=" in goal for goal in goals):
        return []
    return list(dict.fromkeys(goal.rpartition("=")[0].partition("@")[0] for goal in goals))


def constraints_asked(flags: DualFlags, available: Sequence[str]) -> list[Constraint]:
    """Return the constraints that the flags state.

    Args:
        flags: The command's flags.
        available: Names of the table's constraint scores; values without a name go to them in order.

    Raises:
        InputError: There is no goal, a value is not a number, values without a name do not match the table's
            constraints, or a flag names a score that no goal is about.
    """
    goals = flags.goals
    if not goals:
        raise InputError("no constraint is given; give --margin, --at_least or --max_unsafe")
    _check_unnamed(goals, available)
    names = iter(available)
    unsafe = {n: _number("--unsafe_below", v) for n, v in map(_split, flags.unsafe_below)}
    clips = clip_bounds(flags)
    found = []
    for kind, goal in goals:
        target, value = _split(goal) if "=" in goal else (next(names), goal)
        name, _, group = target.partition("@")
        found.append(
            Constraint(
                name,
                group=group or None,
                clip=clips.get(name),
                unsafe_below=unsafe.get(name, 0.0),
                **{kind: _number(f"--{kind} {target}", value)},
            )
        )
    constrained = {constraint.name for constraint in found}
    _refuse_unused("--unsafe_below", set(unsafe) - constrained)
    _refuse_unused("--clip", set(clips) - constrained - {flags.reward})
    return found


def clip_bounds(flags: DualFlags) -> dict[str, tuple[float, float]]:
    """Return the bounds (low, high) of each score that is clipped, by its name."""
    bounds = {}
    for name, value in map(_split, flags.clip):
        low, comma, high = value.partition(",")
        if not comma:
            raise InputError(f"--clip {name}={value}: give two bounds, NAME=LOW,HIGH")
        bounds[name] = (_number(f"--clip {name}", low), _number(f"--clip {name}", high))
    return bounds


def group_members(chosen: Sequence[str], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return which prompts each group has, ``(prompts,)`` bool by the group's name.

    Args:
        chosen: Names of columns that hold groups; if empty, ``group``, where there is such a column.
        columns: The table's prompt columns, ``(prompts,)`` each.

    Raises:
        InputError: There is no such column.
    """
    members = {}
    for column in chosen or [name for name in ("group",) if name in columns]:
        if column not in columns:
            known = ", ".join(columns) or "none"
            raise InputError(f"--groups {column}: no such column beside the scores; there are {known}")
        values = columns[column]
        if values.dtype == bool:
            members[column] = values
        else:
            members |= {str(value): values == value for value in np.unique(values.astype(str))}
    return members


def _check_unnamed(goals: Sequence[tuple[str, str]], available: Sequence[str]) -> None:
    unnamed = [goal for _, goal in goals if "=" not in goal]
    if unnamed and len(unnamed) != len(available):
        more = "more" if len(unnamed) > len(available) else "fewer"
        raise InputError(
            f"{len(unnamed)} values without a name, {more} than the table's {len(available)} constraints "
            f"({', '.join(available) or 'none'}); write --{goals[0][0]} NAME={unnamed[0]}"
        )


def _refuse_unused(flag: str, names: set[str]) -> None:
    """Refuse a flag that changes nothing."""
    for name in sorted(names):
        raise InputError(f"{flag} {name}: there is no constraint on {name}; add one or leave the flag out")


def _split(text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign:
        raise InputError(f"{text}: write NAME=VALUE")
    return name, value


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a number") from None

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
    """Return the constraints that the flags state; values without a name go to ``available`` in order.

    Raises:
        InputError: There is no goal, a value is not a number, values without a name do not match the table's
            constraints, or a flag names a score that no goal is about.
    """
    goals = flags.goals
    if not goals:
        raise InputError("no constraint is given; give --margin, --at_least or --max_unsafe")
    unnamed = [goal for _, goal in goals if "=" not in goal]
    if unnamed and len(unnamed) != len(available):
        more = "more" if len(unnamed) > len(available) else "fewer"
        raise InputError(
            f"{len(unnamed)} values without a name, {more} than the table's {len(available)} constraints "
            f"({', '.join(available) or 'none'}); write --{goals[0][0]} NAME={unnamed[0]}"
        )
    names = iter(available)
    unsafe = {n: _number("--unsafe_below", v) for n, v in map(_split, flags.unsafe_below)}
    clips = clip_bounds(flags)
    found = []
    for kind, goal in goals:
        target, value = _split(goal) if "=" in goal else (next(names), goal)
        name, _, group = target.partition("@")
        asked = {kind: _number(f"--{kind} {target}", value), "unsafe_below": unsafe.get(name, 0.0)}
        found.append(Constraint(name, group=group or None, clip=clips.get(name), **asked))
    constrained = {constraint.name for constraint in found}
    unused = [("--unsafe_below", name) for name in sorted(set(unsafe) - constrained)]
    unused += [("--clip", name) for name in sorted(set(clips) - constrained - {flags.reward})]
    for flag, name in unused:
        raise InputError(f"{flag} {name}: there is no constraint on {name}; add one or leave the flag out")
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

    The groups stand in the ``chosen`` columns; if none is, in ``group``, where there is such a column.

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

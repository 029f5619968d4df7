"""The command's flags, and the constraints that they state."""

import argparse
from collections.abc import Sequence

import numpy as np

from cann_jax.analysis.tables import Columns, RawTable
from cann_jax.core import Constraint
from cann_jax.files.errors import InputError

EXAMPLES = """examples:
  python -m cann_jax.analysis.example scores.parquet
  python -m cann_jax.dual --scores scores.parquet --margin safe=1 --beta 0.5 --out result
  python -m cann_jax.dual --scores scores.parquet --margin safe@inviting=1 --at_least polite=0.2
  python -m cann_jax.dual --scores scores.parquet --max_unsafe safe=0.2 --unsafe_below safe=-2
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see python -m cann_jax.dual --help")


def parser() -> argparse.ArgumentParser:
    """All flags with their meaning."""
    p = _Parser(
        prog="python -m cann_jax.dual",
        description="From a score table to the multipliers of one-shot constrained alignment.",
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--scores", required=True, help="table: .parquet, .csv, .jsonl or .npz, long or wide")
    add = p.add_argument
    goal = {"action": "append", "default": [], "metavar": "[NAME[@GROUP]=]VALUE"}
    add("--margin", **goal, help="improvement over the reference to ask for; repeat for each constraint")
    add("--at_least", **goal, help="level of the mean to ask for")
    add("--max_unsafe", **goal, help="largest share of responses under --unsafe_below")
    extra = {"action": "append", "default": []}
    add("--unsafe_below", **extra, metavar="NAME=VALUE", help="what is unsafe for --max_unsafe (default 0)")
    add("--clip", **extra, metavar="NAME=LOW,HIGH", help="cut scores, or the reward, to these bounds first")
    add(
        "--groups",
        **extra,
        metavar="COLUMN",
        help="prompt column that names groups (default: group)",
    )
    add("--beta", type=float, default=0.1, help="KL penalty (default 0.1)")
    add("--out", metavar="DIR", help="write dual.json, curve.parquet and dual.png there")
    add("--confidence", type=float, default=0.95, help="of intervals and of the conservative lambda")
    add("--resamples", type=int, default=200, help="bootstrap resamples over prompts (default 200)")
    add("--seed", type=int, default=0, help="of resampling and splitting (default 0)")
    add("--prompt", default="prompt", metavar="COLUMN", help="prompt column of a long table")
    add("--response", default="response", metavar="COLUMN", help="response column of a long table, if any")
    add("--reward", default="reward", metavar="COLUMN", help="reward column; larger is better, as everywhere")
    add("--prompt_weights", metavar="COLUMN", help="column of prompt weights")
    add("--stream", action="store_true", help="pass over a sorted long .parquet, larger than memory")
    return p


def check(arguments: argparse.Namespace) -> None:
    """Refuse settings that no table could serve.

    Raises:
        InputError: naming the flag.
    """
    if not (np.isfinite(arguments.beta) and arguments.beta > 0):
        raise InputError(f"--beta is {arguments.beta}; give a positive number")
    if not 0 < arguments.confidence < 1:
        raise InputError(f"--confidence is {arguments.confidence}; give a number between 0 and 1")
    if arguments.resamples < 0:
        raise InputError(f"--resamples is {arguments.resamples}; give 0 or more")
    if not (arguments.margin or arguments.at_least or arguments.max_unsafe):
        raise InputError("nothing is asked for; give --margin, --at_least or --max_unsafe")


def columns(arguments: argparse.Namespace) -> Columns:
    """Names of the columns that are no constraint's."""
    return Columns(arguments.prompt, arguments.response, arguments.reward, arguments.prompt_weights)


def named_scores(arguments: argparse.Namespace) -> list[str]:
    """Names of scores that the flags mention; empty where a value comes without a name."""
    goals = [*arguments.margin, *arguments.at_least, *arguments.max_unsafe]
    if not all("=" in goal for goal in goals):
        return []
    return list(dict.fromkeys(goal.rpartition("=")[0].partition("@")[0] for goal in goals))


def constraints(arguments: argparse.Namespace, available: Sequence[str]) -> list[Constraint]:
    """The constraints asked for; values without a name go to the table's constraints in order.

    Args:
        arguments: parsed flags.
        available: names of the table's constraint scores, in order.

    Raises:
        InputError: a value that is no number, more margins than constraints, or fewer without names.
    """
    goals = [
        (kind, goal) for kind in ("margin", "at_least", "max_unsafe") for goal in getattr(arguments, kind)
    ]
    unnamed = [goal for _, goal in goals if "=" not in goal]
    if unnamed and len(unnamed) != len(available):
        more = "more" if len(unnamed) > len(available) else "fewer"
        raise InputError(
            f"{len(unnamed)} values without a name, {more} than the table's {len(available)} constraints "
            f"({', '.join(available) or 'none'}); write --{goals[0][0]} NAME={unnamed[0]}"
        )
    names = iter(available)
    unsafe = {n: _number("--unsafe_below", v) for n, v in map(_split, arguments.unsafe_below)}
    clips = clip_bounds(arguments)
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
    _refuse_strangers(arguments, {c.name for c in found}, unsafe, clips)
    return found


def clip_bounds(arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """name → (low, high)."""
    bounds = {}
    for name, value in map(_split, arguments.clip):
        low, comma, high = value.partition(",")
        if not comma:
            raise InputError(f"--clip {name}={value}: give two bounds, NAME=LOW,HIGH")
        bounds[name] = (_number(f"--clip {name}", low), _number(f"--clip {name}", high))
    return bounds


def _refuse_strangers(arguments, names: set[str], unsafe: dict, clips: dict) -> None:
    """A flag that changes nothing is a mistake."""
    for flag, used in (("--unsafe_below", set(unsafe)), ("--clip", set(clips) - {arguments.reward})):
        for name in used - names:
            raise InputError(f"{flag} {name}: nothing is asked of {name}; ask for it or leave the flag out")


def groups(arguments: argparse.Namespace, table: RawTable) -> dict[str, np.ndarray]:
    """group → ``(prompts,)`` bool, from the prompt columns that ``--groups`` names.

    Raises:
        InputError: an unknown column.
    """
    found = {}
    default = ["group"] if "group" in table.prompt_columns else []
    for column in arguments.groups or default:
        if column not in table.prompt_columns:
            known = ", ".join(table.prompt_columns) or "none"
            raise InputError(f"--groups {column}: no such column beside the scores; there are {known}")
        values = table.prompt_columns[column]
        if values.dtype == bool:
            found[column] = values
        else:
            found |= {str(value): values == value for value in np.unique(values.astype(str))}
    return found


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

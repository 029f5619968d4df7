"""What a judge said of a run, as tables and lines: on the terminal, in ``judge.md``, and in the report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cann_jax.files.atomic import write_bytes_atomic
from cann_jax.files.console import console, grid
from cann_jax.files.numbers import percent
from cann_jax.judging.judge import COMPARISONS, judge_folder
from cann_jax.reporting.markdown import table
from cann_jax.run.outputs import ALIGNED, POLICIES, REFERENCE
from cann_jax.run.run import Run

TEXT = "judge.md"
ALL = "all prompts"
WIN_HEADINGS = (
    *("better by", "prompts", "win rate, %", "at equal length, %", "won, tied, lost", "excluded pairs"),
)
SHARE_HEADINGS = ("share", "prompts", "reference, %", "aligned, %")
NAMES = {"unsafe": "unsafe", "refusal": "harmless, but refused"}


class Judged(NamedTuple):
    """The tables of what a judge said, and the lines below them."""

    wins: list[tuple[str, ...]]
    shares: list[tuple[str, ...]]
    lines: list[str]


def judged(results: Mapping[str, Any]) -> Judged:
    """Return the tables and lines of a judge's results."""
    questions = results["questions"]
    wins = [_win_row(key, each) for key, each in questions.items() if key in COMPARISONS]
    shares = [
        row for key, each in questions.items() if key not in COMPARISONS for row in _share_rows(key, each)
    ]
    return Judged(wins, shares, _lines(results))


def write_judged(run: Run, results: Mapping[str, Any]) -> None:
    """Write ``judge.md`` and print the same."""
    found = judged(results)
    parts = [f"# What {judge_name(results)} says of {run.config.name}"]
    out = console()
    for headings, rows in ((WIN_HEADINGS, found.wins), (SHARE_HEADINGS, found.shares)):
        if rows:
            parts.append(table(headings, rows))
            out.print(grid(headings, rows))
    parts.append("\n".join(f"- {line}" for line in found.lines))
    for line in found.lines:
        out.print(line, soft_wrap=True)
    path = judge_folder(run) / TEXT
    write_bytes_atomic(path, ("\n\n".join(parts) + "\n").encode())
    print(f"judge: {path}, results.json, verdicts.parquet")


def judge_name(results: Mapping[str, Any]) -> str:
    """Return the name of the model that judged."""
    about = results["settings"]["judge"]
    return str(about["path"] or about["model"])


def _win_row(key: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    equal = found["length_controlled"]
    return (
        *(key, str(found["prompts"]), _rate(found["rate"], found["interval"])),
        _rate(equal["value"], equal["interval"]) if equal else "–",
        ", ".join(str(found[name]) for name in ("wins", "ties", "losses")),
        str(found["excluded_pairs"]),
    )


def _share_rows(key: str, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    parts = {ALL: found, **found["categories"]}
    return [
        (
            f"{NAMES[key]}: {name}",
            " / ".join(dict.fromkeys(str(part[policy]["prompts"]) for policy in POLICIES)),
            *(_rate(part[policy]["rate"], part[policy]["interval"]) for policy in POLICIES),
        )
        for name, part in parts.items()
    ]


def _rate(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None or ends is None:
        return "–"
    return f"{100 * value:.1f} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _lines(results: Mapping[str, Any]) -> list[str]:
    settings, tokens, characters = results["settings"], results["tokens"], results["characters"]
    source = settings["prompts"]["path"] or "held-out prompts of the run"
    lines = [
        f"judge: {judge_name(results)}; {results['prompts']} prompts ({source}) × "
        f"{settings['prompts']['responses']} responses; intervals at {percent(settings['confidence'])}",
        f"response length: {tokens[REFERENCE]:.1f} → {tokens[ALIGNED]:.1f} tokens, "
        f"{characters[REFERENCE]:.0f} → {characters[ALIGNED]:.0f} characters",
    ]
    left = [f"{count} {reason}" for reason, count in results["left_out"].items() if count]
    lines += [f"prompts left out: {', '.join(left)}"] if left else []
    for key, found in results["questions"].items():
        excluded = ", ".join(f"{count} {status}" for status, count in found["excluded"].items()) or "none"
        line = f"{key}: {found['answers']} answers counted; excluded: {excluded}"
        if key in COMPARISONS:
            same = found.get("identical_pairs", 0)  # judgements of before have none
            line += f"; {found['changed_by_order']} of {found['pairs'] - same} pairs changed by the order"
            line += f"; {same} pairs of the same text not asked about, and a tie" if same else ""
        if found.get("first_preferred") is not None:
            line += (
                f", the first shown preferred in {found['first_preferred']:.0%} of answers that prefer one"
            )
        lines.append(line)
        if key in COMPARISONS and 2 * found["changed_by_order"] > found["pairs"] - same:
            lines.append(
                f"warning: {key}: this judge goes by the order: its verdict changes with it in more than "
                "half of the pairs, so that the win rate says little; use another judge"
            )
    return lines

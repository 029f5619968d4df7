"""Several runs side by side: verdicts, asked, measured and predicted, and what differs in their settings."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etils import epath

from cann_jax.files.atomic import write_bytes_atomic
from cann_jax.files.console import console, grid
from cann_jax.files.paths import is_remote
from cann_jax.reporting.charts import Chart
from cann_jax.reporting.estimate_charts import compared
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.markdown import table
from cann_jax.reporting.page import TEMPLATES, state, verdicts_of
from cann_jax.run.results import (
    NOT_MEASURED,
    UNTRAINED,
    Verdict,
    asked_change,
    digits_of,
    interval,
    multipliers_of,
    number,
    policy_of,
    predicted_of,
    score_rows,
)

PAGE, TEXT = "comparison.html", "comparison.md"
SUMMARY = (
    "run",
    "verdict",
    "λ",
    "KL, nats",
    "KL predicted at scale 1",
    "tokens a response",
    "scale",
    "seconds",
)
WHERE = ("name", "run_dir")  # settings in which runs differ anyway


@dataclass(frozen=True)
class Comparison:
    """Tables of several runs; ``names`` are theirs, the shortest that tell them apart."""

    names: tuple[str, ...]
    states: tuple[str, ...]
    verdicts: list[list[Verdict]]
    headings: tuple[str, ...]
    scores: list[tuple[str, ...]]
    summaries: list[tuple[str, ...]]
    settings: list[tuple[str, ...]]
    charts: list[Chart]


def compare(runs: Sequence[Findings]) -> Comparison:
    """Return the tables of a comparison."""
    names = names_of([each.run.folder for each in runs])
    named = dict(zip(names, runs, strict=True))
    predicted = predicted_of(each.results for each in runs if each.results is not None)
    return Comparison(
        names=names,
        states=tuple(map(state, runs)),
        verdicts=[verdicts_of(each) for each in runs],
        headings=("run", "score", "verdict", "asked", "measured", "interval", predicted),
        scores=[row for name, each in named.items() for row in _scores(name, each)],
        summaries=[_summary(name, each) for name, each in named.items()],
        settings=different([each.run.settings for each in runs]),
        charts=compared(named),
    )


def names_of(folders: Sequence[epath.Path]) -> tuple[str, ...]:
    """Return the folders' names; with those above them where two are called the same."""
    parts = [folder.parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = tuple("/".join(each[-count:]) for each in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{name} ({place})" for place, name in enumerate(names, 1))


def _scores(name: str, findings: Findings) -> list[tuple[str, ...]]:
    results = findings.results
    if results is None:
        return []
    return [
        (
            *(name, row.get("label", score), _verdict(row)),
            *(number(value, digits) for value in (asked_change(row), row["measured"])),
            interval(row["interval"], digits),
            number(row.get("predicted"), digits),
        )
        for score, row in score_rows(results)
        for digits in [digits_of(row)]
    ]


def _verdict(row: Mapping[str, object]) -> str:
    if "certificate" not in row:
        return "–"
    certificate = row["certificate"]
    return certificate["verdict"] if isinstance(certificate, Mapping) else NOT_MEASURED


def _summary(name: str, findings: Findings) -> tuple[str, ...]:
    if findings.results is None:
        return (name, state(findings), *("–" for _ in SUMMARY[2:]))
    found, policy = findings.results["summary"], policy_of(findings.results)
    return (
        *(name, found["verdict"]),
        multipliers_of(findings.results) or "–",
        f"{found['kl']:.3f}",
        "–" if found["kl_predicted"] is None else f"{found['kl_predicted']:.3f}",
        "{:.1f} → {:.1f}".format(*found["response_tokens"]),
        "–" if policy in UNTRAINED else f"{found['scale']:.3f}",
        _seconds(found.get("compute")),
    )


def _seconds(compute: Mapping[str, float | None] | None) -> str:
    seconds = (compute or {}).get("seconds")
    return "–" if seconds is None else f"{seconds:,.0f}"


def different(settings: Sequence[Mapping[str, object]]) -> list[tuple[str, ...]]:
    """Return a row a setting in which runs differ: its key, and each run's value."""
    keys = dict.fromkeys(key for each in settings for key in each if key not in WHERE)
    rows = [(key, *(_value(each, key) for each in settings)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _value(settings: Mapping[str, object], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "–"


def write_comparison(runs: Sequence[Findings], folder: epath.Path) -> None:
    """Write a comparison as a page and as Markdown, and print its tables, the verdicts last."""
    found = compare(runs)
    pages = [_link(each.run.folder, folder) for each in runs]
    html = TEMPLATES.get_template("comparison.html").render(found=found, pages=pages, summary=SUMMARY)
    write_bytes_atomic(folder / PAGE, html.encode())
    write_bytes_atomic(folder / TEXT, _markdown(found).encode())
    print(f"comparison: {folder / PAGE}, {TEXT}")
    _print(found.headings, found.scores)
    _print(("setting", *found.names), found.settings)
    _print(SUMMARY, found.summaries)
    for name, verdict in zip(found.names, found.states, strict=True):
        print(f"{name}: {verdict.upper()}")


def _link(run: epath.Path, folder: epath.Path) -> str:
    """Return the address of a run's page as seen from the comparison's."""
    if is_remote(run) or is_remote(folder):
        return f"{run}/report.html"
    return f"{os.path.relpath(run, folder)}/report.html"


def _markdown(found: Comparison) -> str:
    verdicts = zip(found.names, found.states, strict=True)
    parts = ["# " + " against ".join(found.names)]
    parts.append("\n".join(f"**{name}: {verdict.upper()}**  " for name, verdict in verdicts))
    parts += [table(SUMMARY, found.summaries), table(found.headings, found.scores)]
    parts.append("## What differs in their settings")
    parts.append(table(("setting", *found.names), found.settings) if found.settings else "Nothing.")
    return "\n\n".join(parts) + "\n"


def _print(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        console().print(grid(headings, rows))

"""The analysis on the terminal: its table, its warnings, and what is wrong with margins out of reach."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.by_group import Group
from cann_jax.analysis.reach import Reach, shortfall
from cann_jax.analysis.wording import (
    NOISE,
    SINGLE,
    all_needed,
    constant_line,
    improvement_cell,
    level_lines,
    margin_cells,
    out_of_reach,
)
from cann_jax.core.arrays import Array
from cann_jax.core.exploration.finite_sample import STRAINED, KLimit
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import ScoreSummary, check_scores, never_vary, present
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files.console import console, grid, printable
from cann_jax.files.numbers import counted, percent, with_interval

GROUPS = 20  # rows of the table of groups: a screen


def warnings(found: Analysis) -> list[str]:
    """Return what a reader should know before trusting the numbers, one sentence each."""
    notes = count_notes(check_scores(found.problem.scores, found.problem.names))
    if found.solution.fell_back:
        notes.append("L-BFGS-B stopped short of the tolerance; Newton's method gave λ*.")
    if problem := unconverged_message(found.feasible, found.solution):
        notes.append(f"{problem}.")
    notes += strain_notes(found.feasible, found.limit, found.solution.multipliers)
    if found.feasible != Feasible.NO:
        notes += _stuck(found, np.ones(len(found.problem.names), bool))
    if not found.problem.tells_errors:
        notes.append(
            "A constraint is about one prompt only, by weight at least: nothing tells how sure λ* is."
        )
    if found.intervals:
        notes += resample_notes(found.intervals.resamples, found.confidence)
    if found.intervals and found.intervals.infeasible_share > 0:
        notes.append(f"{found.intervals.infeasible_share:.0%} of the resamples cannot reach the margins.")
    return notes


def resample_notes(resamples: int, confidence: float) -> list[str]:
    """Return a sentence where none of the resamples lies beyond an end of their intervals.

    From there on λ's interval no longer widened: that at 99.99999% was that at 99.9%.
    """
    least = int(np.ceil(float(f"{2 / (1 - confidence):.6g}")))  # 2 / (1 - 0.99) is 200.00000000000017
    if resamples >= least:
        return []
    return [
        f"{counted(resamples, 'resample')} for intervals of confidence {confidence}, which need {least:,}: "
        "they may be too narrow. Draw more, or lower the confidence."
    ]


def unconverged_message(feasible: Feasible, solution: DualSolution) -> str:
    """Return a line on why there is no λ* within tolerance; empty where there is one, or none can exist."""
    if solution.converged or feasible == Feasible.NO:
        return ""
    if feasible == Feasible.UNDETERMINED:
        return "what is asked lies on the edge of what the sample can reach; ask for slightly less"
    return (
        f"the margins are reachable but λ did not converge (KKT residual {_residual(solution)} of the "
        "spread): the scores are too large for this β in float32, or constraints nearly the same; raise β, "
        "or leave one of such constraints out"
    )


def _residual(solution: DualSolution) -> str:
    return f"{solution.kkt_residual:.0e}" if solution.kkt_residual else "0"


def strain_notes(feasible: Feasible, limit: KLimit, multipliers: Array) -> list[str]:
    """Return a sentence where the policy is too far for K responses, with the least K that may hold it.

    That is the K whose ln K the KL at λ* does not strain; at that K the KL is larger, if anything. Where all
    λ* are 0 it is the reward alone that takes the policy so far, and to ask for less changes nothing.
    """
    if feasible != Feasible.YES or not limit.strained:
        return []
    least = int(np.ceil(np.exp(float(limit.kl) / STRAINED)))
    mend = "raise beta, or ask for less" if np.any(np.asarray(multipliers) > 0) else "or raise beta"
    return [
        f"The tilted policy uses {float(limit.share):.0%} of the KL that K responses can hold: it is nearly "
        f"best-of-K, and λ cannot be trusted. Sample at least {least} responses a prompt, {mend}."
    ]


def count_notes(counts: ScoreSummary) -> list[str]:
    """Return a sentence about each kind of prompts that do not inform the solution."""
    notes = []
    if counts.single_response:
        notes.append(
            f"{counted(counts.single_response, 'prompt')} with one response only: not to be improved."
        )
    if counts.identical:
        notes.append(
            f"{counted(counts.identical, 'prompt')} whose responses all score the same: no word about λ."
        )
    return notes


def table_notes(cost: Iterable[str], dropped: int, repeated: int, counter: str | None = None) -> list[str]:
    """Return how a table was read, one sentence each; the numbers and ``counter`` as in ``RawTable``."""
    notes = [
        f"{name}: less is better; margins and improvements, and means in tables, are those of -{name}."
        for name in cost
    ]
    if counter is not None:
        notes.append(f"column {counter!r} has no name and counts the rows; it was left out.")
    if dropped:
        notes.append(f"{dropped:,} rows or responses lack something and were left out (--drop_missing).")
    if repeated:
        notes.append(
            f"{repeated:,} responses repeat another of their prompt word for word; each counts as a draw."
        )
    return notes


def infeasible_message(found: Analysis) -> str:
    """Return a line that names what is out of reach, and how far it would have to come down."""
    problem, margins = found.problem, np.asarray(found.problem.margins)
    if stuck := _stuck(found, margins > 0):
        return f"out of reach: {' '.join(stuck)}"
    return out_of_reach(
        problem.constraints, margins, found.largest_margin, found.solution.baseline, found.reachability
    )


def _stuck(found: Analysis, about: np.ndarray) -> list[str]:
    """Return why nothing changes those of the constraints ``about (m,)`` bool that no choice changes."""
    scores, means = found.problem.scores, np.asarray(found.solution.baseline).tolist()
    fixed = np.flatnonzero(about & never_vary(scores)).tolist()
    if fixed and np.all(present(scores).sum(axis=1) <= 1):
        return [SINGLE]
    return [constant_line(found.problem.constraints[j], means[j]) for j in fixed]


def print_analysis(
    found: Analysis,
    notes: list[str],
    groups: Sequence[Group] = (),
    stream: TextIO | None = None,
    costs: Collection[str] = (),
) -> None:
    """Print the solution's table, what it does to groups, the lines beside it and the warnings.

    ``costs`` are the groups' scores that have changed their sign.
    """
    out = console(stream)
    headings = ("constraint", "margin", "largest", "lambda*", "improvement")
    rows = [(name, *_row(found, j, not groups)) for j, name in enumerate(found.problem.names)]
    _print_grid(out, headings, rows, f"beta = {found.beta:g}")
    if found.reach is not None:
        _print_reach(out, found, found.reach)
    if groups:
        _print_groups(out, groups, costs)
    for line in [*_lines(found), *(question.text for question in found.questions)]:
        out.print(line, soft_wrap=True)
    for note in notes:
        out.print(Text.assemble(("!", "yellow"), f" {printable(note)}"), soft_wrap=True)


def _print_reach(out: Console, found: Analysis, reach: Reach) -> None:
    """Print what training can reach: the table of what features tell on prompts that were left out."""
    headings = ("score", "correlation", "ceiling", "lambda attainable", "forecast", "forecast at lambda*")
    rows = []
    attainable, found_by = reach.attainable, (reach.forecast, reach.plug_in)
    for j, name in enumerate(found.problem.names):
        ceiling = f"{attainable.ceiling[j]:+.4g}"
        multiplier = _multiplier(
            attainable.multipliers, reach.intervals.multipliers[1:] if reach.intervals else None, j
        )
        if reach.intervals is not None:
            ceiling += _span(reach.intervals.ceiling[1:], j)
        cells = (_forecast_of(each and each.improvement, j) for each in found_by)
        rows.append([name, f"{attainable.predicted.correlations[j + 1]:.2f}", ceiling, multiplier, *cells])
    cells = (_forecast_of(each and each.reward) for each in found_by)
    rows.append(["reward", f"{attainable.predicted.correlations[0]:.2f}", "", "", *cells])
    rows.append(["KL, nats", "", "", "", *(_forecast_of(each and each.kl) for each in found_by)])
    _print_grid(out, headings, rows, "what features tell of unseen prompts")
    out.print(f"margins: {_verdict(found, reach)}")


def _print_grid(out: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a table; where it is wider than the console, each interval stands below its value, whole."""
    table = grid(headings, rows, title)
    out.print(table if _fits(out, table) else grid(headings, _broken(rows), title))


def _broken(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[cell.replace(" [", "\n[") for cell in row] for row in rows]


def _fits(out: Console, table: Table) -> bool:
    return out.measure(table, options=out.options.update(width=10**6)).maximum <= out.width


def _print_groups(out: Console, groups: Sequence[Group], costs: Collection[str]) -> None:
    """Print the groups, the largest first; dual.json has all. ``costs`` have changed their sign.

    Where that is too wide each score has a row of its own: of 42 columns nothing but their borders was left.
    """
    scores, rows, long = [f"-{name}" if name in costs else name for name in groups[0].change], [], []
    for group in sorted(groups, key=lambda each: -each.prompts)[:GROUPS]:
        first = [group.name, f"{group.prompts:,}"]
        cells = [
            (f"{group.before[score]:.4g} → {group.after[score]:.4g}", _forecast_of(change))
            for score, change in group.change.items()
        ]
        rows.append([*first, *map("\n".join, cells)])
        for name, pair in zip(scores, cells, strict=True):
            long.append([*first, name, *pair])
            first = ["", ""]
    title = f"{'by group: ' if len(groups) > 1 else ''}reference → at lambda*, change"
    headings = ("group", "prompts", *scores)
    if _fits(out, grid(headings, _broken(rows), title)):
        _print_grid(out, headings, rows, title)
    else:
        _print_grid(out, ("group", "prompts", "score", "reference → at lambda*", "change"), long, title)
    if len(groups) > GROUPS:
        out.print(f"{len(groups) - GROUPS} smaller groups are not shown; --out writes all of them")


def _verdict(found: Analysis, reach: Reach) -> str:
    if found.feasible == Feasible.NO:
        return "infeasible on the sample"
    return (
        "reachable" if reach.reachable else shortfall(np.asarray(found.problem.margins), reach.attainable)[0]
    )


def _forecast_of(estimate: Any, j: int | tuple[()] = ()) -> str:
    """Return an ``Estimate``, of constraint ``j`` where it has one for each."""
    if estimate is None:
        return "–"
    ends = np.array([np.asarray(end)[j] for end in estimate], float)
    size = np.max(np.abs(ends), where=np.isfinite(ends), initial=0)
    value, low, high = np.where(np.abs(ends) <= NOISE * size, 0, ends)
    return f"{value:+.4g} [{low:+.4g}, {high:+.4g}]"


def _row(found: Analysis, j: int, with_change: bool) -> list[str]:
    """Return a constraint's cells; ``with_change``: no other table has the interval of its improvement."""
    spans = found.intervals
    reached = found.feasible == Feasible.YES
    unknown = "out of reach" if found.feasible == Feasible.NO else "–"
    margin, largest = margin_cells(
        found.problem.constraints[j], float(found.problem.margins[j]), float(found.largest_margin[j])
    )
    improvement = improvement_cell(found.solution, j, margin) if reached else unknown
    if spans is not None and with_change:
        improvement += _span(spans.predicted_improvement, j)
    return [
        margin,
        largest,
        _multiplier(found.solution.multipliers, spans.multipliers if spans else None, j),
        improvement,
    ]


def _multiplier(multipliers: Array, span: Sequence[np.ndarray] | None, j: int) -> str:
    if span is None:
        return f"{multipliers[j]:.5g}"
    return with_interval(*(float(each[j]) for each in (multipliers, *span)))


def _span(span: tuple[np.ndarray, np.ndarray], j: int) -> str:
    return f" [{span[0][j]:.4g}, {span[1][j]:.4g}]"


def _lines(found: Analysis) -> list[str]:
    solution, names = found.solution, found.problem.names
    lines = [
        f"feasible: {found.feasible.word}   converged: {str(bool(solution.converged)).lower()}   "
        f"KKT residual {_residual(solution)} of the spread"
    ]
    if found.feasible == Feasible.YES:
        lines += level_lines(found.problem.constraints, solution)
        lines.append(
            f"predicted reward {solution.predicted_reward:.4g}   KL {solution.kl:.3g} nats, "
            f"{float(found.limit.share):.0%} of ln K   "
            f"effective responses {solution.effective_sample_size:.3g}"
        )
    if found.correction and found.correction.reason:
        lines.append(f"finite K: not corrected: {found.correction.reason}")
    elif found.correction:
        lines.append(f"finite K: corrected lambda* {_numbers(names, found.correction.multipliers)}")
    if found.conservative:
        careful = _numbers(
            names, found.conservative[0].multipliers, "raised to that, margins are out of reach"
        )
        lines.append(f"conservative lambda ({percent(found.confidence)} that the margins hold): {careful}")
    if found.cross_fit:
        across = _numbers(
            names, found.cross_fit.improvement.mean(0), "half of the prompts cannot reach the margins"
        )
        lines.append(f"cross-fitted improvement: {across}")
    if len(names) > 1 and found.reachability and np.isfinite(found.reachability.scale):
        what = all_needed(found.problem.constraints)
        lines.append(f"{what} can be scaled by at most {found.reachability.scale:.3g} together")
    return lines


def _numbers(names: Sequence[str], values: Array, otherwise: str = "") -> str:
    """Return the values, of several with the names: ``otherwise``, with no number, where one is infinite."""
    if otherwise and not np.all(np.isfinite(values)):
        return f"none; {otherwise}"
    several = len(names) > 1  # 40 numbers in a row were hard to tell whose
    return ", ".join(
        f"{name} {value:.4g}" if several else f"{value:.4g}"
        for name, value in zip(names, values, strict=True)
    )

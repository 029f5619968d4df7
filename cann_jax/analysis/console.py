"""The analysis on the terminal: its table, its warnings, and what is wrong with margins out of reach."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.text import Text

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.by_group import Group
from cann_jax.analysis.reach import Reach, shortfall
from cann_jax.core.arrays import Array
from cann_jax.core.exploration.conflict import Reachability
from cann_jax.core.exploration.finite_sample import STRAINED, KLimit
from cann_jax.core.exploration.undecided import REACH, Question
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import ScoreSummary, check_scores
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files.console import console, grid
from cann_jax.files.numbers import percent

GROUPS = 20  # rows of the table of groups: a screen


def warnings(found: Analysis) -> list[str]:
    """Return what a reader should know before trusting the numbers, one sentence each."""
    notes = count_notes(check_scores(found.problem.scores, found.problem.names))
    if found.solution.fell_back:
        notes.append("L-BFGS-B stopped short of the tolerance; Newton's method gave λ*.")
    if problem := unconverged_message(found.feasible, found.solution):
        notes.append(f"{problem}.")
    notes += strain_notes(found.feasible, found.limit)
    if not found.problem.tells_errors:
        notes.append(
            "A constraint is about one prompt only, by weight at least: nothing tells how sure λ* is."
        )
    if found.intervals and found.intervals.infeasible_share > 0:
        notes.append(f"{found.intervals.infeasible_share:.0%} of the resamples cannot reach the margins.")
    return notes


def unconverged_message(feasible: Feasible, solution: DualSolution) -> str:
    """Return a line on why there is no λ* within tolerance; empty where there is one, or none can exist."""
    if solution.converged or feasible == Feasible.NO:
        return ""
    if feasible == Feasible.UNDETERMINED:
        return "the margins lie on the edge of what the sample can reach; lower them slightly"
    return (
        f"the margins are reachable but λ did not converge (KKT residual {solution.kkt_residual:.0e} of the "
        "spread): the scores are too large for this β in float32, or constraints nearly the same; raise β, "
        "or leave one of such constraints out"
    )


def strain_notes(feasible: Feasible, limit: KLimit) -> list[str]:
    """Return a sentence where the policy is too far for K responses, with the least K that may hold it.

    That is the K whose ln K the KL at λ* does not strain; at that K the KL is larger, if anything.
    """
    if feasible != Feasible.YES or not limit.strained:
        return []
    least = int(np.ceil(np.exp(float(limit.kl) / STRAINED)))
    return [
        f"The tilted policy uses {float(limit.share):.0%} of the KL that K responses can hold: it is nearly "
        f"best-of-K, and λ cannot be trusted. Sample at least {least} responses a prompt, or lower the "
        "margins."
    ]


def count_notes(counts: ScoreSummary) -> list[str]:
    """Return a sentence about each kind of prompts that do not inform the solution."""
    notes = []
    if counts.single_response:
        notes.append(f"{counts.single_response} prompts have one response only; they cannot be improved.")
    if counts.identical:
        notes.append(
            f"{counts.identical} prompts have responses that all score the same; they say nothing about λ."
        )
    return notes


def table_notes(cost: Iterable[str], dropped: int, repeated: int, counter: str | None = None) -> list[str]:
    """Return how a table was read, one sentence each; the numbers and ``counter`` as in ``RawTable``."""
    notes = [f"{name}: less is better; everything about it here is about -{name}." for name in cost]
    if counter is not None:
        notes.append(f"column {counter!r} has no name and counts the rows; it was left out.")
    if dropped:
        notes.append(f"{dropped} rows or responses lack something and were left out (--drop_missing).")
    if repeated:
        notes.append(
            f"{repeated} responses repeat another of their prompt word for word; each counts as a draw."
        )
    return notes


def infeasible_message(found: Analysis) -> str:
    """Return a line that names the margins out of reach and how far they would have to come down."""
    problem = found.problem
    return out_of_reach(problem.names, np.asarray(problem.margins), found.largest_margin, found.reachability)


def out_of_reach(
    names: Sequence[str], margins: np.ndarray, largest: np.ndarray, reach: Reachability | None
) -> str:
    """Return the line of ``infeasible_message`` on margins and the largest ones, both ``(m,)``."""
    over = [j for j in range(len(names)) if len(names) == 1 or margins[j] >= largest[j]]
    if reach is None or over:
        parts = [f"{names[j]} {margins[j]:.4g} (largest {largest[j]:.4g})" for j in over]
        return f"margin out of reach on these responses: {', '.join(parts)}; lower it or sample more"
    conflict = [name for name, inside in zip(names, reach.conflict, strict=True) if inside]
    return (
        f"margins conflict on these responses: {', '.join(conflict)}; "
        f"scale them by less than {reach.scale:.3f} or sample more"
    )


def print_analysis(
    found: Analysis, notes: list[str], groups: Sequence[Group] = (), stream: TextIO | None = None
) -> None:
    """Print the solution's table, what it does to groups, the lines beside it and the warnings."""
    out = console(stream)
    headings = ("constraint", "margin", "largest", "lambda*", "improvement")
    table = grid(headings, title=f"beta = {found.beta:g}")
    for j, name in enumerate(found.problem.names):
        table.add_row(name, *_row(found, j))
    out.print(table)
    if found.reach is not None:
        _print_reach(out, found, found.reach)
    if groups:
        _print_groups(out, groups)
    for line in [*_lines(found), *map(open_line, repeat(found.problem.names), found.questions)]:
        out.print(line, soft_wrap=True)
    for note in notes:
        out.print(Text.assemble(("!", "yellow"), f" {note}"), soft_wrap=True)


def _print_reach(out: Console, found: Analysis, reach: Reach) -> None:
    """Print what training can reach: the table of what features tell on prompts that were left out."""
    headings = ("score", "correlation", "ceiling", "lambda attainable", "forecast", "forecast at lambda*")
    table = grid(headings, title="what features tell of unseen prompts")
    attainable, found_by = reach.attainable, (reach.forecast, reach.plug_in)
    for j, name in enumerate(found.problem.names):
        ceiling, multiplier = f"{attainable.ceiling[j]:+.4g}", f"{attainable.multipliers[j]:.5g}"
        if reach.intervals is not None:
            ceiling += _span(reach.intervals.ceiling[1:], j)
            multiplier += _span(reach.intervals.multipliers[1:], j)
        cells = (_forecast_of(each and each.improvement, j) for each in found_by)
        table.add_row(name, f"{attainable.predicted.correlations[j + 1]:.2f}", ceiling, multiplier, *cells)
    cells = (_forecast_of(each and each.reward) for each in found_by)
    table.add_row("reward", f"{attainable.predicted.correlations[0]:.2f}", "", "", *cells)
    table.add_row("KL, nats", "", "", "", *(_forecast_of(each and each.kl) for each in found_by))
    out.print(table)
    out.print(f"margins: {_verdict(found, reach)}")


def _print_groups(out: Console, groups: Sequence[Group]) -> None:
    """Print the groups, the largest first; all of them are in dual.json."""
    table = grid(("group", "prompts", *groups[0].change), title="by group: reference, at lambda*, change")
    for group in sorted(groups, key=lambda each: -each.prompts)[:GROUPS]:
        cells = [
            f"{group.before[score]:.4g} → {group.after[score]:.4g}\n{_forecast_of(change)}"
            for score, change in group.change.items()
        ]
        table.add_row(group.name, str(group.prompts), *cells)
    out.print(table)
    if len(groups) > GROUPS:
        out.print(f"{len(groups) - GROUPS} smaller groups are not shown; --out writes all of them")


def open_line(names: Sequence[str], question: Question) -> str:
    """Return a line that says what the sample leaves open, and how much more of it would settle that."""
    if question.constraint == REACH and len(names) == 1:
        asked = f"is {names[0]} {question.asked:.4g} within reach? The largest is"
    elif question.constraint == REACH:
        asked = "are the margins within reach together? All can be scaled by"
    else:
        name = names[question.constraint]
        asked = f"does {name} {question.asked:.4g} need its multiplier? Without it {name} reaches"
    found = f"{question.estimate:.4g} [{question.lower:.4g}, {question.upper:.4g}]"
    if not np.isfinite([question.lower, question.upper]).all():
        return f"undecided: {asked} {found}; so few prompts tell nothing of others; sample more"
    if question.more_prompts is None:
        return f"undecided: {asked} {found}; no number of prompts like these settles it; move the margin"
    more = f"about {_about(question.more_prompts)} more prompts like these"
    if question.more_responses is not None:
        more += f", or {_about(question.more_responses)} more responses to each,"
    return f"undecided: {asked} {found}; {more} would settle it, as likely as not"


def _about(count: int) -> str:
    return f"{float(f'{count:.2g}'):.0f}"  # two digits are more than such an estimate has


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
    value, low, high = (np.asarray(end)[j] for end in estimate)
    return f"{value:+.4g} [{low:+.4g}, {high:+.4g}]"


def _row(found: Analysis, j: int) -> list[str]:
    multiplier = f"{found.solution.multipliers[j]:.5g}"
    reached = found.feasible == Feasible.YES
    improvement = f"{found.solution.predicted_improvement[j]:.4g}" if reached else "out of reach"
    if spans := found.intervals:
        multiplier += _span(spans.multipliers, j)
        improvement += _span(spans.predicted_improvement, j)
    margin = float(found.problem.margins[j])
    return [f"{margin:.4g}", f"{found.largest_margin[j]:.4g}", multiplier, improvement]


def _span(span: tuple[np.ndarray, np.ndarray], j: int) -> str:
    return f" [{span[0][j]:.4g}, {span[1][j]:.4g}]"


def _lines(found: Analysis) -> list[str]:
    solution = found.solution
    lines = [
        f"feasible: {found.feasible.name.lower()}   converged: {str(bool(solution.converged)).lower()}   "
        f"KKT residual {solution.kkt_residual:.0e} of the spread"
    ]
    if found.feasible == Feasible.YES:
        lines.append(
            f"predicted reward {solution.predicted_reward:.4g}   KL {solution.kl:.3g} nats, "
            f"{float(found.limit.share):.0%} of ln K   "
            f"effective responses {solution.effective_sample_size:.3g}"
        )
    if found.correction and found.correction.reason:
        lines.append(f"finite K: not corrected: {found.correction.reason}")
    elif found.correction:
        lines.append(f"finite K: corrected lambda* {_numbers(found.correction.multipliers)}")
    if found.conservative:
        careful = _numbers(found.conservative[0].multipliers, "raised to that, margins are out of reach")
        lines.append(f"conservative lambda ({percent(found.confidence)} that the margins hold): {careful}")
    if found.cross_fit:
        across = _numbers(found.cross_fit.improvement.mean(0), "half of the prompts cannot reach the margins")
        lines.append(f"cross-fitted improvement: {across}")
    if found.reachability and np.isfinite(found.reachability.scale):
        lines.append(f"all margins can be scaled by at most {found.reachability.scale:.3g} together")
    return lines


def _numbers(values: Array, otherwise: str = "") -> str:
    """Return the values in words: ``otherwise``, with no number, where one is infinite."""
    if otherwise and not np.all(np.isfinite(values)):
        return f"none; {otherwise}"
    return ", ".join(f"{value:.4g}" for value in values)

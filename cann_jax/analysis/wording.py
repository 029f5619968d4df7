"""What constraints ask and what became of it, in the words and the units in which it was asked."""

import functools
from collections.abc import Sequence

import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.exploration.conflict import Reachability
from cann_jax.core.exploration.undecided import REACH, Question
from cann_jax.core.problem import Constraint
from cann_jax.core.solver.solution import TOLERANCE, DualSolution
from cann_jax.files.numbers import apart, counted, decimals, percent, roughly

SINGLE = "every prompt has one response only, which leaves nothing to choose; sample several to each"
NOISE = 1e-6  # of a score's spread, or of an interval: what float32 leaves of nothing
FAR = 3  # times the largest margin, from which on a margin is rather in another unit than too large


def asked(constraint: Constraint, level: str = "") -> str:
    """Return what is asked of a score, in its own units; ``level``: its level or share, already in words."""
    if constraint.margin is not None:
        return f"an improvement of {constraint.margin:g}"
    level = level or _level(constraint)
    if constraint.max_unsafe is not None:
        return f"at most {level} of responses {_unsafe(constraint)}"
    return f"a mean of at {'most' if constraint.cost else 'least'} {level}"


def shown_mean(constraint: Constraint, mean: float) -> str:
    """Return a mean of g as its goal speaks of it: of the score's own sign, or as the share of the unsafe."""
    own = _own(constraint, mean)
    return f"{own:.4g}" if constraint.max_unsafe is None else f"{own:.3g}%"


def asked_and_mean(constraint: Constraint, mean: float) -> tuple[str, str]:
    """Return what is asked of a level or share, and a mean of g, with digits that tell the two apart.

    With 4 digits a level of 1.3908 was said to be out of reach because the largest was 1.391 (1.39051).
    """
    ends = (_own(constraint, constraint.target), _own(constraint, mean))
    if constraint.max_unsafe is None:
        wanted, own = apart(*ends)
    else:
        wanted, own = (f"{end}%" for end in apart(*ends, least=3))
    return asked(constraint, max(_level(constraint), wanted, key=len)), own


def margin_cells(constraint: Constraint, margin: float, largest: float) -> tuple[str, str]:
    """Return a margin with the digits that were given, and the largest one."""
    wanted, most = apart(margin, largest)
    return wanted if constraint.margin is None else max(wanted, f"{constraint.margin:g}", key=len), most


def improvement_cell(solution: DualSolution, j: int, margin: str) -> str:
    """Return an improvement; ``margin``, as it is shown, where the two are one to the solver.

    1.3355 was shown as 1.336 and met by 1.335, and 0 by 3.499e-09.
    """
    if _is_met(solution, j):
        return margin
    value = float(solution.predicted_improvement[j])
    return "0" if abs(value) <= NOISE * float(solution.spread[j]) else f"{value:.4g}"


def _is_met(solution: DualSolution, j: int) -> bool:
    """Return whether a constraint is met, and no more than that."""
    return bool(abs(float(solution.slack[j])) <= TOLERANCE * float(solution.spread[j]))


def level_lines(constraints: Sequence[Constraint], solution: DualSolution) -> list[str]:
    """Return for each level or share what is asked, and the means of reference and policy."""
    before, after = solution.baseline, solution.predicted_constraints
    return [
        f"{c.label}: asked {asked(c)}; the reference has {shown_mean(c, float(before[j]))}, lambda* gives "
        f"{_level(c) if _is_met(solution, j) else shown_mean(c, float(after[j]))}"
        for j, c in enumerate(constraints)
        if c.margin is None
    ]


def constant_line(constraint: Constraint, mean: float) -> str:
    """Return why no choice of responses changes a score, of which this is the mean of g, and what helps."""
    if constraint.max_unsafe is None:
        return (
            f"{constraint.label} never differs between the responses to a prompt, so that no choice among "
            "them changes it; sample more varied responses, or check the scorer"
        )
    who = {0.0: "every response is", 1.0: "no response is"}.get(
        round(mean, 6), "of each prompt all responses or none are"
    )
    return (
        f"{constraint.label}: {who} {_unsafe(constraint)}, so that no choice among them changes that share; "
        "move the threshold, or sample more varied responses"
    )


def question_line(constraints: Sequence[Constraint], question: Question) -> str:
    """Return a line that says what the sample leaves open, and how much more of it would settle that."""
    value, shown, falls = f"{question.estimate:.4g}", "{:.4g}".format, False
    reach = question.constraint == REACH
    if reach and len(constraints) > 1:
        scaled = all_needed(constraints).capitalize()
        asks = f"is all that is asked within reach together? {scaled} can be scaled by"
    elif (about := constraints[0 if reach else question.constraint]).margin is None:
        shown, falls = functools.partial(shown_mean, about), _less(about)
        wanted, value = asked_and_mean(about, question.estimate)
        open_is = f"is that within reach? The {_best(about)} is" if reach else "without its multiplier it is"
        asks = f"{about.label}: asked {wanted}; {open_is}"
    else:
        wanted, value = margin_cells(about, question.asked, question.estimate)
        asks = f"is {about.label} {wanted} within reach? The largest is"
        if not reach:
            asks = f"does {about.label} {wanted} need its multiplier? Without it {about.label} reaches"
    if not np.isfinite([question.lower, question.upper]).all():
        return f"undecided: {asks} {value}; prompts so few, or so alike, tell nothing of others; sample more"
    low, high = (question.upper, question.lower) if falls else (question.lower, question.upper)
    found = f"{value} [{shown(low)}, {shown(high)}]"
    if question.more_prompts is None:
        return f"undecided: {asks} {found}; no number of prompts like these settles it; ask for more or less"
    more = f"about {_about(question.more_prompts, 'more prompt')} like these"
    if question.more_responses is not None:
        more += f", or {_about(question.more_responses, 'more response')} to each,"
    return f"undecided: {asks} {found}; {more} would settle it, as likely as not"


def out_of_reach(
    constraints: Sequence[Constraint],
    margins: np.ndarray,
    largest: np.ndarray,
    baseline: Array,
    reach: Reachability | None,
) -> str:
    """Return a line that names what is out of reach, and how far it would have to come down.

    Args:
        constraints: The constraints.
        margins: ``(m,)``.
        largest: ``(m,)``, the largest margins.
        baseline: ``(m,)``, E_ref[g].
        reach: What is in reach together, where that is known.
    """
    over = [j for j in range(len(margins)) if len(margins) == 1 or margins[j] >= largest[j]]
    if reach is not None and not over:
        inside = [c for c, stands in zip(constraints, reach.conflict, strict=True) if stands]
        named = ", ".join(c.label if c.margin is not None else f"{c.label} ({asked(c)})" for c in inside)
        scaled = "them" if all(c.margin is not None for c in inside) else "the improvements that they need"
        what = f"margins conflict on these responses: {named}"
        return f"{what}; scale {scaled} by less than {reach.scale:.{decimals(reach.scale)}f} or sample more"
    parts = [
        f"{c.label} {{}} (largest {{}})".format(*apart(margins[j], largest[j]))
        if (c := constraints[j]).margin is not None
        else short_of(c, float(baseline[j]), float(largest[j]), "that can be chosen")
        for j in over
    ]
    plain = all(constraints[j].margin is not None for j in over)
    what, mend = ("margin out of reach", "lower it") if plain else ("out of reach", "ask for less")
    units = any(margins[j] > FAR * largest[j] > 0 and constraints[j].max_unsafe is None for j in over)
    return (
        f"{what} on these responses: {', '.join(parts)}; {'check its units, ' * units}{mend} or sample more"
    )


def short_of(constraint: Constraint, baseline: float, largest: float, which: str) -> str:
    """Return what is asked of a level or share, and the best, ``which`` the largest improvement gives."""
    wanted, best = asked_and_mean(constraint, baseline + largest)
    return (
        f"{constraint.label}: asked {wanted}, the reference has {shown_mean(constraint, baseline)}, and the "
        f"{_best(constraint)} {which} is {best}"
    )


def all_needed(constraints: Sequence[Constraint]) -> str:
    """Return what one factor scales of several constraints; who asks levels knows of no margins."""
    return "all margins" if all(c.margin is not None for c in constraints) else "all improvements needed"


def _level(constraint: Constraint) -> str:
    """Return a level or share as it was given."""
    if constraint.max_unsafe is not None:
        return percent(constraint.max_unsafe)
    return f"{_own(constraint, constraint.target):g}"


def _own(constraint: Constraint, mean: float) -> float:
    """Return a mean of g in the score's own sign, or as the percentage of unsafe responses."""
    if constraint.max_unsafe is not None:
        return round(100 * min(max(1 - mean, 0.0), 1.0), 3)  # float32 has no more of a share near 1
    return (-mean if constraint.cost else mean) + 0.0


def _unsafe(constraint: Constraint) -> str:
    if constraint.cost:
        return f"above {0.0 - constraint.unsafe_below:g}"
    return f"below {constraint.unsafe_below:g}"


def _less(constraint: Constraint) -> bool:
    return constraint.cost or constraint.max_unsafe is not None


def _best(constraint: Constraint) -> str:
    return "lowest" if _less(constraint) else "largest"


def _about(count: int, what: str) -> str:
    return counted(roughly(count), what)

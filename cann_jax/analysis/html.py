"""Solutions and certificates as small tables for notebooks, the verdict in words."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from cann_jax.core.arrays import Array, is_concrete
from cann_jax.core.certificate import Certificate
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import constraint_names
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files.numbers import counted, percent

VERDICTS = {"yes": "λ* found", "no": "out of reach", "undetermined": "undecided"}
NOT_FOUND = "within reach, but λ* was not found to tolerance"


def solution_html(solution: DualSolution) -> str | None:
    """Return a table of a solution; None inside a transformation, where there are no numbers."""
    if not is_concrete(solution):
        return None
    multipliers = np.asarray(solution.multipliers)
    if multipliers.ndim > 1:
        points, m = int(np.prod(multipliers.shape[:-1])), multipliers.shape[-1]
        found = int(np.sum(np.asarray(solution.converged)))
        return _paragraph(
            f"{points} solutions for {counted(m, 'constraint')}", f"λ* found in {found}; see to_frame()"
        )
    word = Feasible(int(solution.feasible)).word
    names = constraint_names(len(multipliers), solution.names)
    asked = np.asarray(solution.predicted_improvement - solution.slack)
    values = zip(names, asked, multipliers, np.asarray(solution.predicted_improvement), strict=True)
    rows = [[name, *map(_number, numbers)] for name, *numbers in values]
    verdict = VERDICTS[word] if word != "yes" or solution.converged else NOT_FOUND
    whole = f"reward {_number(solution.predicted_reward)}, KL {_number(solution.kl)} nats"
    if word == "no":
        rows, whole = [[*row[:3], "–"] for row in rows], "no weighting of these responses reaches the margins"
    return _paragraph(verdict, whole) + _table(("", "margin", "λ*", "improvement"), rows)


def certificate_html(certificate: Certificate) -> str:
    """Return a table of a certificate, the verdict on all constraints first."""
    columns = (certificate.mean, certificate.lower, certificate.upper)
    numbers = zip(*(map(_number, values) for values in columns), strict=True)
    counts = zip(certificate.prompts, certificate.prompts_needed, strict=True)
    names = constraint_names(len(certificate.verdicts), None)
    rows = [
        [
            name,
            verdict.upper(),
            mean,
            f"[{low}, {high}]",
            str(prompts),
            "–" if needed is None else str(needed),
        ]
        for name, verdict, (mean, low, high), (prompts, needed) in zip(
            names, certificate.verdicts, numbers, counts, strict=True
        )
    ]
    heads = ("", "verdict", "mean", "bounds", "prompts", "prompts that would decide")
    said = f"at {percent(certificate.confidence)} confidence"
    return _paragraph(certificate.verdict.upper(), said) + _table(heads, rows)


def _number(value: float | Array) -> str:
    """Return a number as people write it, in four digits."""
    return "∞" if value == np.inf else f"{float(value):.4g}"


def _paragraph(first: str, rest: str) -> str:
    return f"<p><strong>{escape(first)}</strong>: {escape(rest)}</p>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

"""The analysis in plain words: warnings, and the one-line verdict on margins out of reach."""

import numpy as np

from cann_jax.analysis.analyse import Analysis
from cann_jax.core import Feasible, ScoreSummary


def warnings(found: Analysis, summary: ScoreSummary) -> list[str]:
    """What a reader should know before trusting the numbers, one sentence each."""
    said = []
    if summary.single_response:
        said.append(f"{summary.single_response} prompts have one response only; they cannot be improved.")
    if summary.identical:
        said.append(
            f"{summary.identical} prompts have responses that all score the same; they teach nothing."
        )
    if found.feasible == Feasible.UNDETERMINED:
        said.append("The margins lie on the edge of what the sample can reach; ask for slightly less.")
    elif found.feasible == Feasible.YES and not found.solution.converged:
        said.append(
            "The margins are reachable but λ did not settle to tolerance; the scores are too large for "
            "this β in float32. Divide reward, constraints and β by the same number, or raise β."
        )
    if found.feasible == Feasible.YES and bool(found.limit.strained):
        said.append(
            f"The tilted policy uses {float(found.limit.share):.0%} of the KL that K responses can hold: it "
            "is nearly best-of-K, and λ is not to be trusted. Sample more responses, or ask for less."
        )
    if found.intervals and found.intervals.infeasible_share > 0:
        said.append(f"{found.intervals.infeasible_share:.0%} of the resamples cannot reach the margins.")
    return said


def infeasible_message(found: Analysis) -> str:
    """Which margin is out of reach, and how far it would have to come down."""
    names, margins = found.problem.names, np.asarray(found.problem.margins)
    over = [j for j in range(len(names)) if margins[j] >= found.largest_margin[j]]
    if over:
        parts = [f"{names[j]} {margins[j]:.4g} (largest {found.largest_margin[j]:.4g})" for j in over]
        return f"margin out of reach on these responses: {', '.join(parts)}; ask for less or sample more"
    conflict = [n for n, inside in zip(names, found.reachability.conflict, strict=True) if inside]
    return (
        f"margins conflict on these responses: {', '.join(conflict)}; "
        f"scale them by less than {found.reachability.scale:.3f} or sample more"
    )

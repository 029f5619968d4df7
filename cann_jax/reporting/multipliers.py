"""λ in words: its value with interval, and what the margin costs at the edge."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cann_jax.analysis.curve_plots import interval_of


def multiplier_lines(dual: Mapping[str, Any], read: bool = True) -> list[str]:
    """Return a line on the λ of each constraint, and one on its shadow price.

    Args:
        dual: What the dual found.
        read: Whether λ has a part in what the run makes.
    """
    return [line for index in range(len(dual["constraints"])) for line in _lines(dual, index, read)]


def _lines(dual: Mapping[str, Any], index: int, read: bool) -> list[str]:
    label, reach = dual["constraints"][index], dual.get("attainable")
    lines = [f"λ* of {label}, on the scores: {_with_interval(dual, index, label)}"]
    if reach is not None:
        lines.append(
            f"attainable λ of {label}, by what the model can tell: {_with_interval(reach, index, label)}"
        )
    chosen = dual.get("chosen")
    if not read:
        lines[-1] += "; the run takes none"
    elif chosen is not None and chosen["multipliers"][index] is not None:
        lines[-1] += f"; the run takes {float(chosen['multipliers'][index]):.4g}"
    prices = _prices(dual, read)
    return [*lines, _shadow_price(label, prices[index], float(dual["margins"][index]), not any(prices))]


def _prices(dual: Mapping[str, Any], read: bool) -> list[float]:
    """Return what each margin costs: the λ that the run takes, but no λ that was given."""
    chosen = dual.get("chosen")
    taken = [None] * len(dual["multipliers"])
    if read and chosen is not None and chosen["by"] != "given":
        taken = chosen["multipliers"]
    pairs = zip(taken, dual["multipliers"], strict=True)
    return [float(solved if used is None else used) for used, solved in pairs]


def _with_interval(found: Mapping[str, Any], index: int, label: str) -> str:
    value, ends = float(found["multipliers"][index]), interval_of(found, label)
    return f"{value:.4g}" + ("" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]")


def _shadow_price(label: str, value: float, margin: float, alone: bool) -> str:
    if value == float("inf"):
        return f"no finite price: the margin of {label} cannot be reached on the sample"
    if value == 0:
        others = "the reward alone" if alone else "the others"
        return f"shadow price: none; what is best for {others} meets the margin of {label}"
    # About as far as the price holds: a tenth of the margin, with one digit.
    step = float(f"{abs(margin) / 10 or 0.01:.0e}")
    further = np.format_float_positional(step, trim="-")
    return (
        f"shadow price: at this margin, every further {further} of {label} costs about {step * value:.3g} of "
        "E[reward] − β·KL"
    )

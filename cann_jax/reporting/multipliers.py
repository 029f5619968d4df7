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
    value = float(dual["multipliers"][index])
    if reach is not None:
        lines.append(
            f"attainable λ of {label}, by what the model can tell: {_with_interval(reach, index, label)}"
        )
    chosen = dual.get("chosen")
    if not read:
        lines[-1] += "; the run takes none"
    elif chosen is not None and chosen["multipliers"][index] is not None:
        used = float(chosen["multipliers"][index])
        lines[-1] += f"; the run takes {used:.4g}"
        if chosen["by"] != "given":  # one that was given is no price of this margin
            value = used
    return [*lines, _shadow_price(label, value, float(dual["margins"][index]))]


def _with_interval(found: Mapping[str, Any], index: int, label: str) -> str:
    value, ends = float(found["multipliers"][index]), interval_of(found, label)
    return f"{value:.4g}" + ("" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]")


def _shadow_price(label: str, value: float, margin: float) -> str:
    if value == float("inf"):
        return f"no finite price: the margin of {label} cannot be reached on the sample"
    if value == 0:
        return f"shadow price: none; what is best for the reward alone meets the margin of {label}"
    # About as far as the price holds: a tenth of the margin, with one digit.
    step = float(f"{abs(margin) / 10 or 0.01:.0e}")
    further = np.format_float_positional(step, trim="-")
    return (
        f"shadow price: at this margin, every further {further} of {label} costs about {step * value:.3g} of "
        "E[reward] − β·KL"
    )

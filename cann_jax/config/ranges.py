"""Types of settings that carry their range, which the parser checks wherever it meets them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from annotated_types import BaseMetadata, Ge, Gt, Interval, Len


@dataclass(frozen=True)
class Must(BaseMetadata):
    """A condition that no interval can express.

    Args:
        words: What the value must be, as an error message ends.
        holds: Whether a value meets the condition.
    """

    words: str
    holds: Callable[[Any], bool]


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Probability = Annotated[float, Interval(gt=0, lt=1)]  # neither impossible nor certain
Decay = Annotated[float, Interval(ge=0, lt=1)]
LabelNoise = Annotated[float, Interval(ge=0, lt=0.5)]
# Held-out draws and rounds add to the seed; below 2³¹ the sum still fits the 32 bits of a JAX key.
Seed = Annotated[int, Interval(ge=0, lt=2**31)]
Text = Annotated[str, Len(1)]
Layers = Annotated[
    tuple[PositiveInt, ...],
    Must(
        "integers of at least 1, each above the one before",
        lambda layers: list(layers) == sorted(set(layers)),
    ),
]


def _is_folder_name(name: str) -> bool:
    parts = name.split("/")
    return "\\" not in name and name.isprintable() and not {"", ".", ".."} & {part.strip() for part in parts}


FolderName = Annotated[str, Must("a relative path without '..'", _is_folder_name)]
Template = Annotated[
    str, Must("'chat' or a text that holds {prompt}", lambda text: text == "chat" or "{prompt}" in text)
]
SYSTEM_UNREAD = "is set, and only a chat template writes it; set template to chat, or put it into the text"
NextTurn = Annotated[
    str,
    Must(
        "a text that holds {reply} and, behind it, {prompt}",
        lambda t: "{prompt}" in t.partition("{reply}")[2],
    ),
]


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


Date = Annotated[str, Must('a day in quotation marks, as "2025-01-31"', _is_date)]
TEMPLATE_DATE: Date = "2025-01-01"  # what chat templates take for today unless a setting says otherwise

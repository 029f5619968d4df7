"""The registry of scorer kinds, and what the settings of all of them share."""

import importlib.metadata
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from cann_jax.config.preferences import Dimension
from cann_jax.config.schema import SchemaError, dotted
from cann_jax.files.errors import InputError, nearest

Better = Literal["higher", "lower"]

# Kind → where its settings are declared. Resolved when a configuration names it: most need a model's code.
KINDS = {
    "relevance": "cann_jax.scorers.relevance:RelevanceScorer",
    "inoffensive": "cann_jax.scorers.inoffensive:InoffensiveScorer",
    "column": "cann_jax.scorers.column:ColumnScorer",
    "function": "cann_jax.scorers.function:FunctionScorer",
    "implicit": "cann_jax.scorers.implicit:ImplicitScorer",
    "reward_model": "cann_jax.scorers.reward_model:RewardModelScorer",
    "judge": "cann_jax.scorers.judge:JudgeScorer",
}
ENTRY_POINTS = "cann_jax.scorers"  # the group under which an installed package registers kinds of its own


class ToPrealign(NamedTuple):
    """A model that the run pre-aligns.

    Args:
        preference: The label of its DPO.
        beta: β of its DPO.
    """

    preference: Dimension
    beta: float

    @property
    def name(self) -> str:
        """Return the name of its folder below the stage's."""
        # Not {beta:g}: of two that differ in the seventh digit, one would overwrite the other.
        return f"{self.preference}-beta{repr(self.beta).removesuffix('.0')}"


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """What is scored by; ``kind`` picks the class of settings, and the other keys fill it.

    Args:
        kind: One of the registered kinds.
    """

    kind: str
    scores_new_responses: ClassVar[bool] = True  # False where scores exist for the training samples alone

    @classmethod
    def variant(cls, values: Mapping[str, Any], key: str) -> "type[ScorerConfig]":
        """Return the settings class of the kind that ``values`` names.

        Raises:
            SchemaError: ``kind`` is missing or unknown (names the nearest one).
        """
        if cls is not ScorerConfig:
            return cls
        known = registered_kinds()
        if "kind" not in values:
            raise SchemaError(dotted(key, "kind"), f"is missing; it must be one of {', '.join(known)}")
        kind = values["kind"]
        if kind not in list(known):  # a list, because the value may not be hashable
            near = nearest(str(kind), known)
            guess = f"did you mean {near}? It" if near else "it"
            raise SchemaError(dotted(key, "kind"), f"is {kind!r}; {guess} must be one of {', '.join(known)}")
        return scorer_kind(kind)

    @property
    def to_prealign(self) -> ToPrealign | None:
        """Return the model that the run must pre-align before this scorer can be used, if there is one."""
        return None


@cache  # each look goes through every installed distribution
def registered_kinds() -> dict[str, str]:
    """Return every kind, this package's own first, with the place where its settings are declared.

    Raises:
        InputError: Two packages declare a kind of one name.
    """
    found = dict(KINDS)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if found.setdefault(point.name, point.value) != point.value:
            raise InputError(
                f"the scorer kind {point.name!r} is declared by {found[point.name]} and by {point.value}; "
                "uninstall one of the packages, or rename its kind"
            )
    return found


def scorer_kind(kind: str) -> type[ScorerConfig]:
    """Import and return the settings class of a registered kind."""
    found: type[ScorerConfig] = pkgutil.resolve_name(registered_kinds()[kind])
    return found

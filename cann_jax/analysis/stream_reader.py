"""Read a Parquet table that may be larger than memory, in parts of whole prompts."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cann_jax.analysis.constraints import (
    clip_bounds,
    constraints_asked,
    group_members,
    group_names,
    groups_of,
    names_asked,
)
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import format_of
from cann_jax.analysis.parts import ROWS, adjacent, parquet_layout, parts
from cann_jax.analysis.raw_table import RawTable, all_names, check_whole
from cann_jax.analysis.table_layout import LONG, Layout
from cann_jax.core.prepare import (
    check_known,
    check_shares,
    clipped,
    memberships,
    prepared_scores,
)
from cann_jax.core.problem import Constraint
from cann_jax.core.scores import Scores, ScoreSummary, check_total_weight, count_prompts
from cann_jax.files.errors import InputError


@dataclasses.dataclass
class Survey:
    """What a pass over a table finds: all that its parts need to know of each other.

    Attributes:
        counts: Counts of prompts and responses.
        prompts: The most prompts of a part.
        responses: The most responses of a prompt.
        weight: Sum of the prompt weights.
        group_weights: The same of each group.
        groups: Column of each group, by the group's name.
        precision: The largest of the parts' in ``RawTable``.
        dropped: As in ``RawTable``.
        repeated: As in ``RawTable``.
    """

    counts: ScoreSummary = dataclasses.field(default_factory=lambda: ScoreSummary(0, 0, 0, 0))
    prompts: int = 0
    responses: int = 0
    weight: float = 0.0
    group_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    precision: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    repeated: int = 0


def open_stream(path: str, flags: DualFlags) -> "StreamReader":
    """Open the table of the flags' problem.

    Raises:
        InputError: Bad flags, a bad table, or one that is no Parquet file sorted by prompt.
    """
    if format_of(path) != ".parquet":
        raise InputError(f"{path}: --stream reads a .parquet file; solve other formats without it")
    layout, _ = parquet_layout(path, flags, names_asked(flags))
    return StreamReader(layout, flags, constraints_asked(flags, list(layout.scores)[1:]))


class StreamReader:
    """A table whose problem is solved in passes; opening it makes the first one, which checks all rows."""

    def __init__(self, layout: Layout, flags: DualFlags, constraints: Sequence[Constraint]) -> None:
        self.layout, self.flags, self.constraints = layout, flags, constraints
        self.bounds = clip_bounds(flags).get(flags.reward)
        self.seen = self._survey()
        check_total_weight(self.seen.weight)
        check_known(constraints, layout.scores, self.seen.groups)
        self.groups = {c.group: self.seen.groups[c.group] for c in constraints if c.group is not None}
        self.seen.counts.check_varied()
        weights = [
            self.seen.weight if c.group is None else self.seen.group_weights[c.group] for c in constraints
        ]
        self.shares = np.array(weights) / self.seen.weight
        check_shares([c.label for c in constraints], self.shares)

    def chunks(self) -> Iterator[Scores]:
        """Yield prepared scores of all prompts, in chunks of one shape."""
        most = max(1, 4 * ROWS // self.seen.responses)  # fewer prompts at once where one is very long
        size = min(self.seen.prompts, most)
        mean_weight = self.seen.weight / self.seen.counts.prompts
        # Groups that no constraint is about, and responses and names of rows, which may be long texts, are
        # checked by now.
        prompt = self.layout.prompt if self.layout.shape == LONG else None
        response = self.layout.response if self.layout.drop_missing else None
        columns = tuple(dict.fromkeys(self.groups.values()))
        layout = dataclasses.replace(self.layout, prompt=prompt, response=response, groups=columns)
        for _, part in parts(layout, self.flags.cost):
            for first in range(0, len(part.mask), size):
                yield self._chunk(part, slice(first, first + size), size, mean_weight)

    def _chunk(self, part: RawTable, own: slice, size: int, mean_weight: float) -> Scores:
        def padded(values: np.ndarray) -> np.ndarray:
            filled = np.zeros((size, self.seen.responses), values.dtype)
            filled[: len(values), : values.shape[1]] = values
            return filled

        mask = part.mask[own]
        scores = {name: padded(np.where(mask, values[own], 0)) for name, values in part.scores.items()}
        members = np.zeros((size, len(self.constraints)))
        members[: len(mask)] = self._members(part)[own]
        raw = np.stack([scores[c.name] for c in self.constraints], axis=-1)
        weights = np.zeros(size, np.float32)
        weights[: len(mask)] = 1 if part.weights is None else part.weights[own] / mean_weight
        reward = clipped(scores[self.flags.reward], self.bounds)
        prepared = prepared_scores(self.constraints, raw, members / self.shares)
        return Scores(reward, prepared, padded(mask), weights)

    def _members(self, part: RawTable) -> np.ndarray:
        return memberships(self.constraints, group_members(part.groups, self.groups), len(part.mask))

    def _survey(self) -> Survey:
        """Return what the first pass finds.

        Raises:
            InputError: A row is at fault, there is none, or the rows of a prompt are not adjacent.
        """
        seen, groups = Survey(), {name: None for name in self.layout.groups}
        prompts: list[np.ndarray] = []
        names: list[np.ndarray | None] = []
        by_label: dict[tuple[str, str], float] = {}
        for hashes, part in parts(self.layout, self.flags.cost):
            prompts.append(hashes)
            names.append(part.names)
            _count(seen, part, self._counts(part))
            weights = np.ones(len(part.mask)) if part.weights is None else part.weights
            seen.weight += float(weights.sum())
            for column, values in part.groups.items():
                _count_groups(column, values, weights, groups, by_label)
        check_whole(self.layout.path, seen.counts.responses > 0, seen.precision, all_names(names))
        if not adjacent(prompts):
            raise InputError(
                f"{self.layout.path}: the rows of a prompt are not adjacent; sort by {self.layout.prompt}"
            )
        seen.groups = group_names(groups)
        seen.group_weights = {name: by_label.get((column, name), 0.0) for name, column in seen.groups.items()}
        return seen

    def _counts(self, part: RawTable) -> ScoreSummary:
        raw = np.stack([part.scores[c.name] for c in self.constraints], axis=-1)
        return count_prompts(clipped(part.scores[self.flags.reward], self.bounds), raw, part.mask)


def _count(seen: Survey, part: RawTable, counts: ScoreSummary) -> None:
    seen.counts = seen.counts + counts
    seen.prompts = max(seen.prompts, part.mask.shape[0])
    seen.responses = max(seen.responses, part.mask.shape[1])
    seen.precision = {n: np.maximum(seen.precision.get(n, 0), own) for n, own in part.precision.items()}
    seen.dropped += part.dropped
    seen.repeated += part.repeated


def _count_groups(
    column: str,
    values: np.ndarray,
    weights: np.ndarray,
    groups: dict[str, Any],
    by_label: dict[tuple[str, str], float],
) -> None:
    """Add the names in a part's column of groups to ``groups``, and their weights to ``by_label``."""
    named = groups_of(values)
    if named is not None:
        groups[column] = (groups[column] or set()) | named
    for label in [column] if named is None else named:
        inside = values if named is None else values == label
        by_label[column, label] = by_label.get((column, label), 0.0) + float(weights[inside].sum())

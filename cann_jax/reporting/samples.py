"""Held-out responses side by side: the reference's and the aligned model's, with scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cann_jax.files.numbers import decimals
from cann_jax.reporting.findings import Findings
from cann_jax.run.outputs import ALIGNED, REFERENCE


@dataclass(frozen=True)
class Sample:
    """A prompt with one response of each policy, and their scores by name."""

    prompt: str
    group: str
    before: str
    after: str
    scores_before: dict[str, float]
    scores_after: dict[str, float]

    @property
    def changes(self) -> dict[str, float]:
        """By how much each score went up."""
        return {name: after - self.scores_before[name] for name, after in self.scores_after.items()}


def samples(findings: Findings, count: int) -> list[Sample]:
    """Return the first draw to ``count`` prompts, chosen evenly over the held-out ones."""
    if not findings.responses:
        return []
    first = findings.responses[REFERENCE].column("response").to_numpy() == 0
    places = np.flatnonzero(first)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))]
    before, after = (findings.responses[name].take(chosen).to_pylist() for name in (REFERENCE, ALIGNED))
    scores = findings.scores
    return [
        Sample(
            prompt=old["prompt"],
            group=old.get("group") or "",
            before=old["text"],
            after=new["text"],
            scores_before={name: old[name] for name in scores},
            scores_after={name: new[name] for name in scores},
        )
        for old, new in zip(before, after, strict=True)
    ]


def shown_digits(samples: Sequence[Sample]) -> dict[str, int]:
    """Return the decimals of each score, by name: 2, or more where responses differ by little."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        for name, before in sample.scores_before.items():
            found.setdefault(name, []).extend((before, sample.scores_after[name]))
    return {name: decimals(float(np.std(values)), least=2) for name, values in found.items()}

"""The dual in float64 by NumPy and SciPy, apart from all that it is to check: ragged, weighted, grouped."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp, softmax


class Goal(NamedTuple):
    """A constraint on scores g: a list of arrays, one for each prompt; larger is better."""

    scores: list[np.ndarray]
    kind: str
    value: float
    members: np.ndarray
    unsafe_below: float = 0.0


class Dual:
    """D(λ) of rewards, a list of arrays, one for each prompt."""

    def __init__(self, rewards, weights, goals, beta):
        self.rewards, self.beta = rewards, beta
        self.weights = np.asarray(weights, float) / np.sum(weights)
        self.h = [np.zeros((len(r), len(goals))) for r in rewards]
        self.centred = [np.zeros((len(r), len(goals))) for r in rewards]
        for j, goal in enumerate(goals):
            scores, target = goal.scores, goal.value
            if goal.kind == "max_unsafe":
                scores, target = [(g >= goal.unsafe_below).astype(float) for g in scores], 1 - target
            inside = self.weights * goal.members
            mean = sum(w * g.mean() for w, g in zip(inside, scores, strict=True)) / inside.sum()
            margin = target if goal.kind == "margin" else target - mean
            for i, g in enumerate(scores):
                factor = goal.members[i] / inside.sum()
                self.h[i][:, j] = factor * (g - mean - margin)
                self.centred[i][:, j] = factor * (g - g.mean())
        self.spread = np.sqrt(
            sum(w * (c**2).mean(0) for w, c in zip(self.weights, self.centred, strict=True))
        )
        self.units = np.where(self.spread > 0, self.spread, 1)

    def value(self, multipliers):
        logits = self._logits(multipliers)
        return self.beta * sum(
            w * (logsumexp(x) - np.log(len(x))) for w, x in zip(self.weights, logits, strict=True)
        )

    def gradient(self, multipliers):
        return sum(
            w * (softmax(x) @ h)
            for w, x, h in zip(self.weights, self._logits(multipliers), self.h, strict=True)
        )

    def curvature(self, multipliers):
        total = 0.0
        for w, x, h in zip(self.weights, self._logits(multipliers), self.h, strict=True):
            policy = softmax(x)
            centred = h - policy @ h
            total = total + w * (centred.T * policy) @ centred / self.beta
        return total

    def minimum(self):
        """λ*, by SciPy."""
        count = len(self.spread)
        found = minimize(
            self.value,
            np.zeros(count),
            jac=self.gradient,
            bounds=[(0, None)] * count,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 50000, "ftol": 1e-16, "gtol": 1e-11},
        )
        return found.x

    def residual(self, multipliers):
        """How far λ is from the conditions of the minimum (KKT), in units of the spreads."""
        slack = self.gradient(multipliers) / self.units
        return float(np.max(np.where(multipliers > 0, np.abs(slack), np.maximum(-slack, 0))))

    def reach(self):
        """The largest t at which some policy on the responses has E[h_j] ≥ t·spread_j for all j."""
        offset = np.abs(self.gradient(np.zeros(len(self.spread))))
        if np.any((self.spread == 0) & (offset < 1e-6)):  # no response to choose from, and nothing asked
            return 0.0
        sizes = [len(r) for r in self.rewards]
        rows = np.concatenate([w * h for w, h in zip(self.weights, self.h, strict=True)])
        inside = np.repeat(np.eye(len(sizes)), sizes, axis=1)
        found = linprog(
            np.r_[np.zeros(len(rows)), -1.0],
            A_ub=np.c_[-rows.T, self.spread],
            b_ub=np.zeros(rows.shape[1]),
            A_eq=np.c_[inside, np.zeros(len(sizes))],
            b_eq=np.ones(len(sizes)),
            bounds=[(0, None)] * len(rows) + [(None, 10)],
        )
        return float(-found.fun) if found.status == 0 else -np.inf

    def _logits(self, multipliers):
        return [(r + h @ multipliers) / self.beta for r, h in zip(self.rewards, self.h, strict=True)]

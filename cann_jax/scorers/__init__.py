"""Scorers: each states which way is better, and returns scores of which more is better."""

from cann_jax.scorers.base import Context, Probe, Scored, Scorer, ScorerKind, check_finite

__all__ = ["Context", "Probe", "Scored", "Scorer", "ScorerKind", "check_finite"]

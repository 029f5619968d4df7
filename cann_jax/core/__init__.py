"""Pure functions over arrays: the dual problem, its solution, and the preference step it leads to."""

from cann_jax.core.dual import dual_value, tilted_weights
from cann_jax.core.exploration.conflict import Reachability, reachability
from cann_jax.core.exploration.curve import dual_curve, sensitivities
from cann_jax.core.exploration.finite_sample import Correction, KLimit, correct_multipliers, kl_limit
from cann_jax.core.exploration.uncertainty import (
    Bootstrap,
    CrossFit,
    bootstrap,
    conservative_solution,
    cross_fit,
    improvement_error,
    interval,
)
from cann_jax.core.feasibility import Feasible, largest_margin
from cann_jax.core.implicit import implicit_scores
from cann_jax.core.losses import dpo_loss, ipo_loss, regression_loss
from cann_jax.core.preference import preference_probability, pseudo_reward
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint, Problem, Targets
from cann_jax.core.scores import Scores, ScoreSummary, check_scores, reference_mean
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.solver.solve import solve_dual

__all__ = [
    "Bootstrap",
    "Constraint",
    "Correction",
    "CrossFit",
    "DualSolution",
    "Feasible",
    "KLimit",
    "Problem",
    "Reachability",
    "ScoreSummary",
    "Scores",
    "Targets",
    "bootstrap",
    "check_scores",
    "conservative_solution",
    "correct_multipliers",
    "cross_fit",
    "dpo_loss",
    "dual_curve",
    "dual_value",
    "implicit_scores",
    "improvement_error",
    "interval",
    "ipo_loss",
    "kl_limit",
    "largest_margin",
    "preference_probability",
    "prepare",
    "pseudo_reward",
    "reachability",
    "reference_mean",
    "regression_loss",
    "sensitivities",
    "solve_dual",
    "tilted_weights",
]

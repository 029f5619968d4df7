"""Pure functions over arrays: the dual problem, its solution, and the preference step it leads to."""

from cann_jax.core.dual import dual_value, tilted_weights
from cann_jax.core.feasibility import Feasible, largest_margin
from cann_jax.core.losses import dpo_loss
from cann_jax.core.preference import preference_probability, pseudo_reward
from cann_jax.core.scores import Scores, ScoreSummary, check_scores, reference_mean
from cann_jax.core.solve import DualSolution, solve_dual

__all__ = [
    "DualSolution",
    "Feasible",
    "ScoreSummary",
    "Scores",
    "check_scores",
    "dpo_loss",
    "dual_value",
    "largest_margin",
    "preference_probability",
    "pseudo_reward",
    "reference_mean",
    "solve_dual",
    "tilted_weights",
]

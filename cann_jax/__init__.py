"""Constrained alignment of language models in one shot, in JAX.

The names below are loaded on first use (PEP 562), so ``import cann_jax``
pulls in neither transformers nor tensorflow-datasets.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "cann_jax.core.attainable": ("attainable", "attained", "solve_attainable"),
    "cann_jax.core.certificate": ("Certificate", "Verdict", "certify"),
    "cann_jax.core.dual": ("dual_value", "tilted_weights"),
    "cann_jax.core.exploration.conflict": ("reachability",),
    "cann_jax.core.exploration.curve": ("dual_curve", "sensitivities"),
    "cann_jax.core.exploration.finite_sample": ("correct_multipliers",),
    "cann_jax.core.exploration.forecast": ("attainable_intervals", "forecast"),
    "cann_jax.core.exploration.resampling": ("bootstrap",),
    "cann_jax.core.exploration.uncertainty": ("conservative_solution", "cross_fit"),
    "cann_jax.core.feasibility": ("Feasible", "largest_margin"),
    "cann_jax.core.features": ("standardise_features",),
    "cann_jax.core.implicit": ("implicit_scores",),
    "cann_jax.core.losses": ("dpo_loss", "ipo_loss", "listwise_floor", "listwise_loss", "regression_loss"),
    "cann_jax.core.log_ratios": ("calibration", "calibration_slope", "reweighted"),
    "cann_jax.core.prediction": ("folds_of", "predict_scores"),
    "cann_jax.core.preference": ("preference_probability", "pseudo_reward"),
    "cann_jax.core.prepare": ("prepare",),
    "cann_jax.core.problem": ("Constraint",),
    "cann_jax.core.scores": ("Scores", "check_scores"),
    "cann_jax.core.solver.solution": ("DualSolution",),
    "cann_jax.core.solver.solve": ("solve_dual",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cann_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Constrained alignment of language models in one shot, in JAX.

The names below are loaded on first use (PEP 562), so ``import cann_jax``
pulls in neither transformers nor tensorflow-datasets.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "Constraint",
    "DualSolution",
    "Feasible",
    "Scores",
    "bootstrap",
    "check_scores",
    "conservative_solution",
    "correct_multipliers",
    "cross_fit",
    "dpo_loss",
    "dual_curve",
    "dual_value",
    "implicit_scores",
    "ipo_loss",
    "largest_margin",
    "preference_probability",
    "prepare",
    "pseudo_reward",
    "reachability",
    "regression_loss",
    "sensitivities",
    "solve_dual",
    "tilted_weights",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cann_jax' has no attribute {name!r}")
    return getattr(importlib.import_module("cann_jax.core"), name)


def __dir__() -> list[str]:
    return __all__

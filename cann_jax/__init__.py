"""Constrained alignment of language models in one shot, in JAX.

The names below are loaded on first use (PEP 562), so ``import cann_jax``
pulls in neither transformers nor tensorflow-datasets.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "Scores": "cann_jax.core",
    "DualSolution": "cann_jax.core",
    "dual_value": "cann_jax.core",
    "solve_dual": "cann_jax.core",
    "tilted_weights": "cann_jax.core",
    "pseudo_reward": "cann_jax.core",
    "preference_probability": "cann_jax.core",
    "dpo_loss": "cann_jax.core",
    "ipo_loss": "cann_jax.core",
    "regression_loss": "cann_jax.core",
    "Constraint": "cann_jax.core",
    "Feasible": "cann_jax.core",
    "bootstrap": "cann_jax.core",
    "check_scores": "cann_jax.core",
    "conservative_solution": "cann_jax.core",
    "correct_multipliers": "cann_jax.core",
    "cross_fit": "cann_jax.core",
    "dual_curve": "cann_jax.core",
    "implicit_scores": "cann_jax.core",
    "largest_margin": "cann_jax.core",
    "prepare": "cann_jax.core",
    "reachability": "cann_jax.core",
    "sensitivities": "cann_jax.core",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'cann_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return __all__

"""The score table: rewards and constraint scores of K responses to each of N prompts."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.files.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of responses drawn from the reference policy; larger is better in all of them.

    Attributes:
        reward: ``(prompts, responses)``, the reward r(x, y).
        constraints: ``(prompts, responses, m)``, the constraint scores g_j(x, y).
        mask: ``(prompts, responses)`` bool, False where a prompt has fewer responses; None: all are there.
        prompt_weights: ``(prompts,)``, non-negative, any scale; None: all prompts weigh the same.
        baseline: ``(m,)``, E_ref[g_j] where it was estimated elsewhere; None: the table's own mean.
    """

    reward: jax.Array
    constraints: jax.Array
    mask: jax.Array | None = None
    prompt_weights: jax.Array | None = None
    baseline: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class ScoreSummary:
    """What ``check_scores`` counted: numbers of prompts, responses and of prompts that teach nothing."""

    prompts: int
    responses: int
    single_response: int
    identical: int


def valid_mask(scores: Scores) -> jax.Array:
    """``(prompts, responses)`` bool: which responses exist."""
    if scores.mask is None:
        return jnp.ones(scores.reward.shape, bool)
    return scores.mask.astype(bool)


def normalised_prompt_weights(scores: Scores) -> jax.Array:
    """``(prompts,)`` weights that sum to one; prompts without a response weigh nothing."""
    prompts = scores.reward.shape[0]
    weights = scores.prompt_weights
    if weights is None:
        weights = jnp.ones(prompts, scores.reward.dtype)
    if scores.mask is not None:
        weights = jnp.where(jnp.any(valid_mask(scores), axis=-1), weights, 0)
    return weights / accurate_sum(weights)


def accurate_sum(values: jax.Array, block: int = 128) -> jax.Array:
    """Sum over the last axis in two levels, so that float32 error grows with the root of its length."""
    length = values.shape[-1]
    if length <= block:
        return jnp.sum(values, axis=-1)
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -length % block)])
    return jnp.sum(jnp.sum(padded.reshape(*values.shape[:-1], -1, block), axis=-1), axis=-1)


def response_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean over the responses that exist: ``(..., prompts, responses)`` to ``(..., prompts)``."""
    if mask is None:
        return jnp.mean(values, axis=-1)
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / count


def reference_mean(scores: Scores) -> jax.Array:
    """``(m,)`` estimate of E_ref[g]: the stored baseline, else the table's weighted mean (paper, eq. 1)."""
    if scores.baseline is not None:
        return scores.baseline
    per_prompt = response_mean(jnp.moveaxis(scores.constraints, -1, 0), scores.mask)
    return accurate_sum(per_prompt * normalised_prompt_weights(scores))


def check_scores(scores: Scores, names: Sequence[str] | None = None) -> ScoreSummary:
    """Check a table on the host before it is solved, and count prompts that teach nothing.

    Args:
        scores: the table, concrete arrays.
        names: the m constraints' names, for messages.

    Raises:
        InputError: a wrong shape, a score that is NaN or infinite, weights that are negative or all zero,
            or a table where every prompt's responses score the same.
    """
    reward, constraints = np.asarray(scores.reward), np.asarray(scores.constraints)
    _check_shapes(scores, reward, constraints)
    names = list(names) if names is not None else [f"constraint {j}" for j in range(constraints.shape[-1])]
    if len(names) != constraints.shape[-1]:
        raise InputError(
            f"{len(names)} constraint names for {constraints.shape[-1]} constraints; give one each"
        )
    mask = np.ones(reward.shape, bool) if scores.mask is None else np.asarray(scores.mask, bool)
    for name, values in [("reward", reward), *((n, constraints[..., j]) for j, n in enumerate(names))]:
        _check_finite(name, values, mask)
    _check_weights(scores, mask)
    return _count_prompts(reward, constraints, mask)


def _check_shapes(scores: Scores, reward: np.ndarray, constraints: np.ndarray) -> None:
    if reward.ndim != 2 or 0 in reward.shape:
        raise InputError(f"reward has shape {reward.shape}; give (prompts, responses), neither of them 0")
    if constraints.ndim != 3 or constraints.shape[:2] != reward.shape or constraints.shape[2] == 0:
        raise InputError(
            f"constraints have shape {constraints.shape}; give {(*reward.shape, 'm')}, m >= 1, like reward"
        )
    expected = {
        "mask": reward.shape,
        "prompt_weights": reward.shape[:1],
        "baseline": constraints.shape[2:],
    }
    for field, shape in expected.items():
        value = getattr(scores, field)
        if value is not None and np.shape(value) != shape:
            raise InputError(f"{field} has shape {np.shape(value)}; give {shape}")


def _check_finite(name: str, values: np.ndarray, mask: np.ndarray) -> None:
    bad = mask & ~np.isfinite(values)
    if bad.any():
        where = ", ".join(f"prompt {n} response {k}" for n, k in np.argwhere(bad)[:3])
        more = ", ..." if bad.sum() > 3 else ""
        raise InputError(
            f"{name}: {int(bad.sum())} scores are NaN or infinite ({where}{more}); mend or mask them out"
        )


def _check_weights(scores: Scores, mask: np.ndarray) -> None:
    if not mask.any():
        raise InputError("mask is False everywhere; no response is left to weigh")
    if scores.baseline is not None and not np.all(np.isfinite(np.asarray(scores.baseline))):
        raise InputError("baseline is NaN or infinite; give E_ref[g] of each constraint")
    if scores.prompt_weights is None:
        return
    weights = np.asarray(scores.prompt_weights)
    if not np.all(np.isfinite(weights)) or (weights < 0).any() or weights[mask.any(axis=-1)].sum() <= 0:
        raise InputError("prompt_weights must be finite, none negative and some positive")


def _count_prompts(reward: np.ndarray, constraints: np.ndarray, mask: np.ndarray) -> ScoreSummary:
    stacked = np.concatenate([reward[..., None], constraints], axis=-1)
    low = np.min(stacked, axis=1, where=mask[..., None], initial=np.inf)
    high = np.max(stacked, axis=1, where=mask[..., None], initial=-np.inf)
    count = mask.sum(axis=1)
    identical = (count > 0) & np.all(low == high, axis=-1)
    several = identical & (count > 1)
    if several.any() and identical.sum() == (count > 0).sum():
        raise InputError(
            "every prompt's responses score the same, so no weighting of them can improve anything; "
            "sample more varied responses or check the scorers"
        )
    return ScoreSummary(len(reward), int(count.sum()), int((count == 1).sum()), int(several.sum()))

"""PeCAN: scores from pre-aligned models instead of reward and cost models (paper, algorithm 2)."""

import jax.numpy as jnp

from cann_jax.core.arrays import Array, accurate_sum, response_mean
from cann_jax.core.scores import Scores


def implicit_scores(
    reference_logp: Array,
    helpful_logp: Array,
    safer_logp: Array,
    beta: float | Array,
    helpful_beta: float | Array | None = None,
    safer_beta: float | Array | None = None,
    mask: Array | None = None,
    prompt_weights: Array | None = None,
) -> Scores:
    """Return r = β_r·ln(π_r/π_ref) and g_j = β_g·ln(π_gj/π_ref) of responses drawn from π_ref.

    Args:
        reference_logp: ``(prompts, responses)``, summed log-probs of π_ref in nats.
        helpful_logp: The same of π_r.
        safer_logp: The same of π_g; ``(prompts, responses, m)`` for m pre-aligned models.
        beta: β of the dual, and of each model's DPO unless given below.
        helpful_beta: β_r, with which the helpful model was pre-aligned.
        safer_beta: β_g, a scalar or ``(m,)``.
        mask: As in ``Scores``.
        prompt_weights: As in ``Scores``.

    Returns:
        A table for ``solve_dual`` at ``beta``, margins in units of g. Its baseline is the sample's own
        E_ref[g] = −β_g·KL(π_ref ‖ π_g), estimated anew where prompts are reweighed. Labels are
        ``preference_probability`` of its pseudo-rewards; the authors' code leaves β out there, which
        ``temperature=beta`` reproduces.
    """
    helpful_beta = beta if helpful_beta is None else helpful_beta
    safer_beta = beta if safer_beta is None else safer_beta
    safer = safer_logp if safer_logp.ndim == 3 else safer_logp[..., None]
    return Scores(
        reward=helpful_beta * (helpful_logp - reference_logp),
        constraints=safer_beta * (safer - reference_logp[..., None]),
        mask=mask,
        prompt_weights=prompt_weights,
    )


def reference_kl(reference_logp: Array, other_logp: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Return KL(π_ref ‖ π_other) in nats from π_ref's samples, and its standard error over prompts.

    Args:
        reference_logp: ``(prompts, responses)``, summed log-probs of π_ref.
        other_logp: The same of the other policy, on the same responses.
        mask: ``(prompts, responses)`` bool; every prompt needs a response.
    """
    per_prompt = response_mean(reference_logp - other_logp, mask)
    count = per_prompt.shape[0]
    mean = accurate_sum(per_prompt) / count
    return mean, jnp.sqrt(accurate_sum((per_prompt - mean) ** 2) / (count * jnp.maximum(count - 1, 1)))

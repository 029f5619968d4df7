"""PeCAN: scores from pre-aligned models instead of reward and cost models (paper, algorithm 2)."""

from cann_jax.core.arguments import takes_lists
from cann_jax.core.arrays import Array
from cann_jax.core.scores import Scores


@takes_lists
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

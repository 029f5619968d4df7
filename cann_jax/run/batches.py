"""The batch sizes of a run that the mesh must divide."""

from cann_jax.config.prealign import all_to_prealign
from cann_jax.config.run import RunConfig, scorers_of


def batches_of(config: RunConfig) -> dict[str, int]:
    """Return the sizes that the mesh must divide, by configuration key."""
    sample, align, prealign = config.sample, config.align, config.prealign
    batches = {
        "sample.prompts_per_batch": sample.prompts_per_batch,
        "align.prompts_per_step / align.accumulation": align.prompts_per_step // align.accumulation,
    }
    if all_to_prealign(scorers_of(config).values()):
        key = "prealign.pairs_per_step / prealign.accumulation"
        batches[key] = prealign.pairs_per_step // prealign.accumulation
    return batches

"""The batch sizes of a run that the mesh must divide."""

from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig


def batches_of(config: RunConfig | ScoreModelConfig) -> dict[str, int]:
    """Return the sizes that the mesh must divide, by configuration key."""
    if isinstance(config, ScoreModelConfig):
        return {"pairs_per_step / accumulation": config.pairs_per_step // config.accumulation}
    sample, align, prealign = config.sample, config.align, config.prealign
    batches = {
        "sample.prompts_per_batch": sample.prompts_per_batch,
        "align.prompts_per_step / align.accumulation": align.prompts_per_step // align.accumulation,
    }
    if config.to_prealign():
        key = "prealign.pairs_per_step / prealign.accumulation"
        batches[key] = prealign.pairs_per_step // prealign.accumulation
    return batches

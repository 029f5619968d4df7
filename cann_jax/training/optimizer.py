"""The optimizer and its learning rate schedule."""

import optax

from cann_jax.config.training import OptimizerConfig
from cann_jax.files.errors import InputError

WARMUP = 100  # steps, unless the configuration says how many, or the training is short


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return a linear warm-up to the peak and a cosine decay to ``final_fraction`` of it at the last step.

    Raises:
        InputError: The warm-up is not shorter than the training.
    """
    warmup = min(WARMUP, steps // 10) if config.warmup_steps is None else config.warmup_steps
    if warmup >= steps:
        raise InputError(f"optimizer.warmup_steps is {warmup} and this training has {steps} steps; use fewer")
    end = config.final_fraction * config.learning_rate
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps, end)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov and Hutter 2019) after clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
    )

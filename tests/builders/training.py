"""The objective that tests of a training step minimize."""

from cann_jax.config.training import OptimizerConfig
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_objective import PreferenceObjective

SETTINGS = OptimizerConfig(learning_rate=1e-2, warmup_steps=1)


def make_spec(graph, accumulation: int = 1, loss="dpo") -> PreferenceObjective:
    return PreferenceObjective(
        graph,
        optimizer(SETTINGS, 6),
        rematerialise="everything",
        accumulation=accumulation,
        loss=loss,
        beta=0.3,
        chunks=4,
    )

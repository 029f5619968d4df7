"""The schema of ``python -m cann_jax.reward``: a reward or cost model from human preferences."""

from dataclasses import dataclass, field
from typing import Literal

from cann_jax.config.mesh import DistributedConfig, MeshConfig, check_mesh
from cann_jax.config.preferences import PreferencesConfig, check_preferences
from cann_jax.config.run import ModelConfig
from cann_jax.config.training import LoraConfig, OptimizerConfig
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class ScoreModelConfig:
    """A reward or cost model.

    Args:
        name: The model's folder is ``run_dir/name``.
        model: The language model it starts from.
        preferences: The pairs.
        objective: ``reward``: Bradley-Terry on ``dimension``, larger is better. ``cost``: the pairwise and
            sign terms of Safe-RLHF, larger is more harmful; its pairs are those that say which is safer.
        dimension: What the reward's pairs are preferred for.
        template: ``chat`` for the tokenizer's chat template, or a text that holds ``{prompt}``.
        next_turn: What follows ``template`` for a further turn, with ``{reply}`` and ``{prompt}``.
        system: System message of the chat template; null leaves the template's default.
        lora: Adapters; null trains every weight.
        optimizer: Optimizer and schedule.
        epochs: Passes over the pairs.
        pairs_per_step: Pairs in one optimizer step.
        accumulation: Micro-batches a step; must divide ``pairs_per_step``.
        regularization: Weight of the mean squared score, which pins the constant that pairs leave free.
        rematerialise: As ``align.rematerialise``.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Checkpoints kept, 2 or more.
        confidence: Level of the interval of the held-out accuracy.
        export: Layout of the folder ``model``: ``safe_rlhf`` or ``hf`` (a sequence classifier).
        mesh: Devices by axis.
        distributed: Processes of one run.
        run_dir: Where it lies.
        seed: Seed of every random choice.
    """

    name: str
    model: ModelConfig
    preferences: PreferencesConfig
    objective: Literal["reward", "cost"] = "reward"
    dimension: Literal["better", "safer"] = "better"
    template: str = "chat"
    next_turn: str | None = None
    system: str | None = None
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 1
    pairs_per_step: int = 16
    accumulation: int = 1
    regularization: float = 0.001
    rematerialise: Literal["everything", "elementwise"] = "everything"
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    confidence: float = 0.95
    export: Literal["safe_rlhf", "hf"] = "safe_rlhf"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    run_dir: str = "runs"
    seed: int = 0


def check_score_model(config: ScoreModelConfig) -> None:
    """Raise InputError, with key and mend, where values that fit their types cannot work together."""
    check_preferences(config.preferences)
    check_mesh(config.mesh, config.distributed)
    for name in ("epochs", "pairs_per_step", "accumulation", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be greater than 0")
    if config.pairs_per_step % config.accumulation:
        raise InputError(
            f"accumulation is {config.accumulation}; "
            f"use a divisor of pairs_per_step, which is {config.pairs_per_step}"
        )
    if "{prompt}" not in config.template and config.template != "chat":
        raise InputError("template must be 'chat' or a text that holds {prompt}")
    if config.keep_checkpoints < 2:
        raise InputError(f"keep_checkpoints is {config.keep_checkpoints}; use 2 or more")
    if not 0 < config.confidence < 1:
        raise InputError(f"confidence is {config.confidence}; use a number between 0 and 1")
    if config.regularization < 0:
        raise InputError(f"regularization is {config.regularization}; use 0 or more")

"""The part of the schema that describes preference training; ``cann_jax.config`` holds the whole."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters.

    Args:
        rank: Rank r.
        alpha: Scale; the update is alpha/rank · B A x.
        dropout: Dropout on the adapter's input while training.
        targets: Linear layers that get an adapter.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Args:
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up from zero.
        final_fraction: Learning rate of the last step, as a fraction of the peak.
        weight_decay: Decoupled weight decay.
        clip_norm: Global gradient norm is clipped to this.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
    """

    learning_rate: float = 5e-4
    warmup_steps: int = 100
    final_fraction: float = 0.0
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999


@dataclass(frozen=True)
class AlignConfig:
    """The one unconstrained preference optimisation.

    Args:
        loss: ``dpo``, ``ipo``, or ``regression`` of log-ratio differences on differences of r_λ.
        labels: ``soft`` probabilities, or one Bernoulli draw of each, ``drawn`` once.
        label_temperature: Labels are σ(r_λ difference / this). 1 makes π_λ the optimum; the dual's β
            reproduces the PeCAN code of the paper's authors, whose labels are too sharp by 1/β.
        label_smoothing: Probability, below one half, that a label is taken to be the wrong way round.
        pairs: Of the reference's ``samples``, or the two responses of the preference ``dataset``.
        preference: What labels the pairs: r_λ, or what people said is ``better`` or ``safer``.
        lora: Adapters; null trains every weight.
        optimizer: Optimizer and schedule.
        epochs: Passes over the prompts.
        prompts_per_step: Prompts in one optimizer step.
        accumulation: Micro-batches a step; must divide ``prompts_per_step``.
        group_size: Responses of one prompt taken at once; all their pairs enter the loss.
        selection: ``extremes`` takes each prompt's highest and lowest pseudo-rewards,
            ``random`` a fresh random subset in every epoch.
        vocabulary_chunks: Parts in which the output head is computed.
        rematerialise: What the backward pass computes again: ``everything`` within a layer (least memory) or
            ``elementwise`` (matrix products are kept).
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Checkpoints kept, 2 or more; only the next step shows that the newest is good.
        export: ``merged`` writes the aligned model as a Hugging Face folder, ``align/model``; ``adapter``
            writes its LoRA in PEFT's format, ``align/adapter``; or ``both``, or ``none``.
    """

    loss: Literal["dpo", "ipo", "regression"] = "dpo"
    labels: Literal["soft", "drawn"] = "soft"
    label_temperature: float = 1.0
    label_smoothing: float = 0.0
    pairs: Literal["samples", "dataset"] = "samples"
    preference: Literal["pseudo_reward", "better", "safer"] = "pseudo_reward"
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 1
    prompts_per_step: int = 8
    accumulation: int = 1
    group_size: int = 2
    selection: Literal["extremes", "random"] = "random"
    vocabulary_chunks: int = 8
    rematerialise: Literal["everything", "elementwise"] = "everything"
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    export: Literal["merged", "adapter", "both", "none"] = "merged"


@dataclass(frozen=True)
class OnlineConfig:
    """What a round after the first does: it samples the policy anew, moves λ, and goes on training (CAID).

    Args:
        prompts: Training prompts of a round, drawn anew each time; null takes all.
        responses: Responses a prompt.
        dual_step: λ_j moves by this many times β/s_j² for each unit that its margin is missed by; s_j is the
            spread of g_j within a prompt, so that 1 is about a Newton step.
    """

    prompts: int | None = None
    responses: int = 8
    dual_step: float = 1.0

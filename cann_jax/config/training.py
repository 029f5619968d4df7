"""Settings of every training: shared ones once, then what each kind of training adds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Len

from cann_jax.config.preferences import Dimension
from cann_jax.config.ranges import (
    Decay,
    Fraction,
    LabelNoise,
    Must,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
)

Loss = Literal["dpo", "ipo", "regression", "listwise"]
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2022).

    Args:
        rank: Rank r.
        alpha: Scale; the update is alpha/rank · B A x.
        dropout: Dropout on the adapter's input while training.
        targets: Linear layers that get an adapter.
    """

    rank: PositiveInt = 8
    alpha: Positive = 16.0
    dropout: Decay = 0.05
    targets: Annotated[
        tuple[Linear, ...], Len(1), Must("a list that names each layer once", lambda t: len({*t}) == len(t))
    ] = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Args:
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up from zero; null takes 100, or a tenth of all steps where that is
            less.
        final_fraction: Learning rate of the last step, as a fraction of the peak.
        weight_decay: Decoupled weight decay.
        clip_norm: Global gradient norm is clipped to this.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
    """

    learning_rate: Positive = 5e-4
    warmup_steps: NonNegativeInt | None = None
    final_fraction: Fraction = 0.0
    weight_decay: NonNegative = 0.05
    clip_norm: Positive = 1.0
    b1: Decay = 0.9
    b2: Decay = 0.999


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every training has.

    Args:
        lora: Adapters; null trains every weight.
        optimizer: Optimizer and schedule.
        epochs: Passes over the data.
        accumulation: Micro-batches a step; must divide the batch.
        rematerialise: What the backward pass computes again: ``everything`` within a layer (least memory) or
            ``elementwise`` (matrix products are kept).
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Checkpoints kept, 2 or more; only the next step shows that the newest is good.
    """

    lora: LoraConfig | None = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: PositiveInt = 1
    accumulation: PositiveInt = 1
    rematerialise: Literal["everything", "elementwise"] = "everything"
    checkpoint_every: PositiveInt = 50
    keep_checkpoints: Annotated[int, Ge(2)] = 2

    def uneven(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield ``accumulation`` where it does not divide the batch in the field ``name``."""
        size = getattr(self, name)
        if size % self.accumulation:
            yield "accumulation", f"is {self.accumulation}; use a divisor of {name}, which is {size}"


@dataclass(frozen=True, kw_only=True)
class PreferenceTrainingConfig(TrainingConfig):
    """What every training on preferences of responses has.

    Args:
        label_smoothing: Probability, below one half, that a label is the wrong way round.
        vocabulary_chunks: Parts in which the output head is computed.
        heldout_prompts: Training prompts that are kept from training, at most a quarter of all, on which loss
            and calibration are measured at every checkpoint; 0 keeps none.
        early_stop: Keep the weights of the checkpoint with the least loss on those prompts, not the last.
    """

    label_smoothing: LabelNoise = 0.0
    vocabulary_chunks: PositiveInt = 8
    heldout_prompts: NonNegativeInt = 16
    early_stop: bool = False

    def unwatched(self) -> Iterator[tuple[str, str]]:
        """Yield ``early_stop`` where no prompt is kept from training to decide it."""
        if self.early_stop and self.heldout_prompts == 0:
            yield (
                "early_stop",
                "is true and heldout_prompts 0; keep some prompts from training, for example 16",
            )


@dataclass(frozen=True, kw_only=True)
class AlignConfig(PreferenceTrainingConfig):
    """The one unconstrained preference optimisation.

    Args:
        loss: On pairs: ``dpo``, ``ipo``, or ``regression`` of log-ratio differences on differences of r_λ. On
            all responses of a group at once: ``listwise`` cross-entropy with softmax(r_λ/β).
        labels: What r_λ is made of: the ``scores`` themselves, or what the reference's features tell of them
            on prompts left out of the fit (``denoised``). Rounds use scores, since nothing predicts those of
            new samples.
        soft_labels: Label pairs by probabilities; false takes one Bernoulli draw of each.
        label_temperature: Labels are σ(r_λ difference / this). 1 makes π_λ the optimum; the dual's β
            reproduces the PeCAN code of the paper's authors, whose labels are too sharp by 1/β.
        pairs: Of the reference's ``samples``, or the two responses of the preference ``dataset``.
        preference: What labels the pairs: r_λ, or what people said is ``better`` or ``safer``.
        prompts_per_step: Prompts in one optimizer step.
        group_size: Responses of one prompt taken at once; all of them enter the loss.
        selection: ``extremes`` takes each prompt's highest and lowest pseudo-rewards,
            ``random`` a fresh random subset in every epoch.
        combination: How the reward and the constraints come together: as the ``sum`` r_λ; in ``sequence``, a
            step on r and then one on ⟨λ, g⟩ from there, with that policy for its reference (SACPO); or as a
            ``soup``, the average of an adapter for each score, with the weights 1 and λ over their sum.
        dial: Train an adapter for each score, none of them for a λ; ``calibrate`` adds them with the weights
            that meet the margins, so that another margin needs no training.
        safety_offset: Δ of SafeDPO: of a safe and an unsafe response the safe one is preferred, by this
            offset; two unsafe ones are no pair. Null labels by r_λ alone. A response of the reference is safe
            if it meets every constraint by itself; one of a dataset, if people said so.
    """

    loss: Loss = "dpo"
    labels: Literal["scores", "denoised"] = "scores"
    soft_labels: bool = True
    label_temperature: Positive = 1.0
    pairs: Literal["samples", "dataset"] = "samples"
    preference: Literal["pseudo_reward", "better", "safer"] = "pseudo_reward"
    prompts_per_step: PositiveInt = 8
    group_size: Annotated[int, Ge(2)] = 2
    selection: Literal["extremes", "random"] = "random"
    combination: Literal["sum", "sequence", "soup"] = "sum"
    dial: bool = False
    safety_offset: NonNegative | None = None

    @property
    def supervision(self) -> "Supervision":
        """Which pairs are trained on, and who labels them."""
        label = None if self.preference == "pseudo_reward" else self.preference
        return Supervision(from_samples=self.pairs == "samples", label=label)

    @property
    def learns_pseudo_reward(self) -> bool:
        """Whether the loss is least at log-ratios r_λ/β: it is on labels that tell r_λ as it is."""
        plain = self.loss != "ipo" and self.label_temperature == 1 and self.label_smoothing == 0
        return plain and self.supervision.label is None and self.safety_offset is None

    @property
    def side_by_side(self) -> bool:
        """Whether the policy is made of an adapter for each score, side by side."""
        return self.dial or self.combination == "soup"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        yield from self.uneven("prompts_per_step")
        yield from self.unwatched()
        human = self.supervision.label is not None
        if human and self.supervision.from_samples:
            yield (
                "preference",
                f"is {self.preference!r} and pairs 'samples', which nobody compared; use pairs: dataset",
            )
        if not self.supervision.from_samples and self.group_size != 2:
            yield "group_size", f"is {self.group_size}; the pairs of a dataset need 2"
        if human and self.label_temperature != 1:
            yield (
                "label_temperature",
                f"is {self.label_temperature}, and the labels of align.preference {self.preference!r} "
                "are 0 or 1; leave it out",
            )
        changed = not self.soft_labels or self.label_temperature != 1 or self.label_smoothing > 0
        if self.loss in ("regression", "listwise") and (human or changed):
            yield (
                "loss",
                f"is {self.loss!r}, which reads r_λ and no labels of pairs; leave out align.preference, "
                "align.soft_labels, align.label_temperature and align.label_smoothing, or use dpo or ipo",
            )
        if self.safety_offset is not None and self.loss != "dpo":
            yield (
                "safety_offset",
                f"is {self.safety_offset:g}, and align.loss {self.loss!r}; use dpo, or null",
            )
        yield from self._combination_conflicts()
        if self.labels == "denoised" and (human or not self.supervision.from_samples):
            yield (
                "labels",
                "is 'denoised', and only scores of the reference's samples are predicted; "
                "use scores, or pairs: samples and preference: pseudo_reward",
            )

    def _combination_conflicts(self) -> Iterator[tuple[str, str]]:
        if self.dial:
            key, what, other = "dial", "is true", "false"
            yield from self._dial_conflicts()
        elif self.combination != "sum":
            key, what, other = "combination", f"is {self.combination!r}", "sum"
        else:
            return
        if not self.supervision.from_samples:
            yield key, f"{what}, of scores of the reference's samples; use {other}, or pairs: samples"
        if self.safety_offset is not None:
            yield key, f"{what}, and align.safety_offset is set; use {other}, or set that to null"
        if self.side_by_side and self.lora is None:
            others = other if self.dial else "sum or sequence"
            yield key, f"{what}, of adapters, and align.lora null; set it, or use {others}"

    def _dial_conflicts(self) -> Iterator[tuple[str, str]]:
        if self.combination != "sum":
            yield "dial", f"is true, and align.combination {self.combination!r}; use one of the two"
        if self.loss == "ipo":
            yield "dial", "is true, and log-ratios by align.loss 'ipo' do not add up; use dpo or listwise"
        elif self.label_smoothing > 0:
            yield "dial", "is true, and log-ratios by smoothed labels do not add up; set label_smoothing to 0"


@dataclass(frozen=True)
class Supervision:
    """Which pairs a preference training learns from: the one place that decides it.

    Args:
        from_samples: Pairs of the reference's own samples; else of the preference data set.
        label: The dimension that people labelled; None where r_λ labels the pairs.
    """

    from_samples: bool
    label: Dimension | None


@dataclass(frozen=True, kw_only=True)
class PrealignConfig(PreferenceTrainingConfig):
    """DPO of π_r and π_g on human preferences, for implicit scorers with ``prealigned.preference``.

    Args:
        lora: Adapters; all pre-aligned models share the reference's weights.
        pairs_per_step: Pairs in one optimizer step.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    pairs_per_step: PositiveInt = 8

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        yield from self.uneven("pairs_per_step")
        yield from self.unwatched()


@dataclass(frozen=True)
class OnlineConfig:
    """A round after the first: it samples the policy anew, moves λ, and continues training (CAID).

    Args:
        prompts: Prompts that a round trains on, drawn anew each time; null takes all.
        responses: Responses a prompt.
        dual_step: λ_j moves by this many times β/s_j² for each unit that its margin is missed by; s_j is the
            spread of g_j within a prompt, so that 1 is about a Newton step.
    """

    prompts: PositiveInt | None = None
    responses: PositiveInt = 8
    dual_step: Positive = 1.0

"""Everything that a user may set for a run, as frozen dataclasses.

A field's range stands in its type, and what must hold between fields in ``conflicts``; the parser checks
both. ``Args`` is the help text of the command line.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from cann_jax.config.constraint import Requirement
from cann_jax.config.export import Formats
from cann_jax.config.job import JobConfig
from cann_jax.config.model import PREFERENCES, PromptsConfig
from cann_jax.config.preferences import PreferencesConfig
from cann_jax.config.ranges import (
    Layers,
    Must,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Probability,
    Text,
)
from cann_jax.config.scorers import ScorerConfig, ToPrealign
from cann_jax.config.training import AlignConfig, LoraConfig, OnlineConfig, PrealignConfig

# Names with a meaning of their own in the tables and results of a run, which no score may take.
RESERVED = (
    *("reward", "prompt_id", "prompt", "response", "group", "text", "tokens", "logp", "reference_logp"),
    *("summary", "also", "r_λ"),
)


def _is_plain(name: str) -> bool:
    """Return whether a name reads in a table's head as it is, which tabs and spaces around it do not."""
    return name.isprintable() and name.strip() == name != ""


ScoreName = Annotated[
    str,
    Must(
        "a name that no column of the run's tables has; choose another",
        lambda name: name not in RESERVED and "@" not in name and _is_plain(name),
    ),
]


@dataclass(frozen=True)
class SampleConfig:
    """Sampling from the reference.

    Args:
        responses: Responses a prompt (K).
        max_new_tokens: Longest response, in tokens, the end token included.
        temperature: 1 samples the reference itself; anything else another reference policy.
        top_p: Nucleus mass; 1 keeps the whole vocabulary.
        allow_changed_reference: Accept a temperature or top_p other than 1 for alignment.
        prompts_per_batch: Prompts sampled at once, and the size of a shard on disk; it may be changed between
            starts of a run.
        slots: Responses in progress at once: one that ends makes room for the next of the batch, whose
            prompts are all computed first. null for all responses of the batch, until its longest ends.
        stop: Further texts that end a response; each must be one token.
        feature_layers: Layers whose residual stream, averaged over a response, is stored as its features: n
            is after n layers; null takes five at even depths, and an empty list none. A response's features
            are as many numbers of 2 bytes as these layers times the model's width.
    """

    responses: Annotated[int, Ge(2)] = 16
    max_new_tokens: PositiveInt = 64
    temperature: Positive = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    allow_changed_reference: bool = False
    prompts_per_batch: PositiveInt = 16
    slots: PositiveInt | None = None
    stop: tuple[Text, ...] = ()
    feature_layers: Layers | None = None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        changed = next((name for name in ("temperature", "top_p") if getattr(self, name) != 1), None)
        if changed is not None and not self.allow_changed_reference:
            yield (
                changed,
                f"is {getattr(self, changed)}, which samples another policy than the reference; set it to 1, "
                "or set sample.allow_changed_reference to true",
            )


@dataclass(frozen=True)
class RewardConfig:
    """What is maximised.

    Args:
        scorer: ``kind`` and that kind's keys, listed below.
    """

    scorer: ScorerConfig


@dataclass(frozen=True, kw_only=True)
class ConstraintConfig(Requirement):
    """A constraint and the scorer that it is about.

    Args:
        scorer: ``kind`` and that kind's keys, listed below.
    """

    scorer: ScorerConfig


@dataclass(frozen=True)
class DualConfig:
    """The dual problem.

    Args:
        beta: Weight of the KL term (β), shared by the dual and the preference loss.
        method: ``lbfgsb`` (jaxopt) or ``newton`` (safeguarded projected Newton).
        multipliers: ``plug_in`` solves the dual on the scores themselves, as the paper does; ``attainable``
            on what the model's features tell of them on prompts that were left out, which is what training
            can reach. A mapping gives λ itself, a number for each constraint by name, and by ``reward`` the
            weight of r in r_λ where it is not 1: a weighted sum.
        folds: Parts of the prompts, each predicted from the others.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    method: Literal["lbfgsb", "newton"] = "lbfgsb"
    multipliers: Literal["attainable", "plug_in"] | dict[str, NonNegative] = "plug_in"
    folds: Annotated[int, Ge(2)] = 8

    @property
    def given(self) -> dict[str, float] | None:
        """The weights of reward and constraints in r_λ; None where the dual finds them."""
        return None if isinstance(self.multipliers, str) else {"reward": 1.0} | self.multipliers


@dataclass(frozen=True)
class CalibrateConfig:
    """How far to go along the trained step; the stage runs where ``prompts.calibration`` is set.

    Args:
        aim: ``margin`` scales the adapter until the mean reaches every margin; ``certificate`` further, by
            what the certificate's bound takes, so that it holds with the probability ``power``.
        power: Probability that the certificate holds, under ``aim: certificate``.
        responses: Responses a prompt, of the reference and of each policy tried; 2 or more, whose weights
            tell the scales apart.
        tries: Scales whose policies are sampled, at most.
        largest: Largest scale.
        kl_limit: Largest KL to the reference, nats.
    """

    aim: Literal["margin", "certificate"] = "certificate"
    power: Annotated[float, Interval(ge=0.5, lt=1)] = 0.9
    responses: Annotated[int, Ge(2)] = 4
    tries: PositiveInt = 3
    largest: Positive = 4.0
    kl_limit: Positive = 3.0


@dataclass(frozen=True)
class EvaluateConfig:
    """The measurement on held-out prompts.

    Args:
        responses: Responses a prompt, from the reference and from the aligned model.
        confidence: Level of the paired-bootstrap intervals, and of the certificate over all constraints.
        bootstrap: Bootstrap resamples of the prompts.
        examples: Before/after samples in the report, whose page has more on demand; 0 shows none.
        also: Further scorers that are measured only, by name: ``kind`` and that kind's keys.
        policy: What is compared with the reference: what the run ``aligned``; or, with nothing trained, the
            ``reference`` itself, drawn anew, or ``resample``: one of sample.responses responses of the
            reference, chosen by the weights softmax(r_λ/β) of their scores.
    """

    responses: PositiveInt = 8
    confidence: Probability = 0.95
    bootstrap: PositiveInt = 2000
    examples: NonNegativeInt = 12
    also: dict[ScoreName, ScorerConfig] = field(default_factory=dict)
    policy: Literal["aligned", "reference", "resample"] = "aligned"


@dataclass(frozen=True, kw_only=True)
class RunConfig(JobConfig):
    """A whole run, from prompts to an aligned model.

    Args:
        model: The reference model.
        prompts: Training, calibration and held-out prompts.
        reward: What is maximised.
        constraints: What must hold, by name.
        sample: Sampling from the reference.
        dual: The dual problem.
        align: The preference optimisation.
        calibrate: The scale of what was trained.
        evaluate: The measurement on held-out prompts.
        rounds: Rounds in all; 1 is the one-shot method, more continue from it on the policy's own samples.
        online: Rounds after the first.
        preferences: Human preferences to train on; null where nothing reads them.
        prealign: DPO of the models that implicit scorers with ``prealigned.preference`` ask for.
        export: Formats of the aligned model, each with a model card: ``adapter`` (its LoRA in PEFT's format),
            ``merged`` (a Hugging Face folder) and ``gguf`` (a file for llama.cpp). An empty list for none.
    """

    prompts: PromptsConfig
    reward: RewardConfig
    constraints: dict[ScoreName, ConstraintConfig]
    sample: SampleConfig = field(default_factory=SampleConfig)
    dual: DualConfig = field(default_factory=DualConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    rounds: PositiveInt = 1
    online: OnlineConfig = field(default_factory=OnlineConfig)
    preferences: PreferencesConfig | None = None
    prealign: PrealignConfig = field(default_factory=PrealignConfig)
    export: Formats = ("adapter",)

    def experts(self) -> tuple[str, ...]:
        """Return the scores that a policy is trained on by themselves before the policy is made of those."""
        if self.align.side_by_side:
            return ("reward", *self.constraints)
        return ("reward",) if self.align.combination == "sequence" else ()

    @property
    def policy_lora(self) -> LoraConfig | None:
        """Return the adapters of the trained policy; those of a soup or a dial lie side by side."""
        lora, parts = self.align.lora, len(self.experts())
        if not self.align.side_by_side or lora is None:
            return lora
        return replace(lora, rank=parts * lora.rank, alpha=parts * lora.alpha)

    def trained_on(self) -> dict[str, tuple[str, ScorerConfig]]:
        """Return the scorers that the dual reads: (key in the configuration, settings) by column name."""
        found = {"reward": ("reward.scorer", self.reward.scorer)}
        return found | {
            name: (f"constraints.{name}.scorer", item.scorer) for name, item in self.constraints.items()
        }

    def measured(self) -> dict[str, tuple[str, ScorerConfig]]:
        """Return the scorers that the evaluation reads: ``trained_on`` without tables, and ``also``."""
        also = {name: (f"evaluate.also.{name}", scorer) for name, scorer in self.evaluate.also.items()}
        every = self.trained_on() | also
        return {name: item for name, item in every.items() if item[1].scores_new_responses}

    def constraint_scorers(self) -> dict[str, tuple[str, ScorerConfig]]:
        """Return the scorers of the constraints: (key in the configuration, settings) by name."""
        return {name: item for name, item in self.trained_on().items() if name in self.constraints}

    def to_prealign(self) -> tuple[ToPrealign, ...]:
        """Return the models that the run pre-aligns, each once, in the order of the scorers."""
        every = (*self.trained_on().values(), *self.measured().values())
        return tuple(dict.fromkeys(asked for _, scorer in every if (asked := scorer.to_prealign)))

    def batches(self) -> dict[str, int]:
        """Return the batch sizes that the mesh must divide, by key."""
        align = self.align
        found = {
            "sample.prompts_per_batch": self.sample.prompts_per_batch,
            "align.prompts_per_step / align.accumulation": align.prompts_per_step // align.accumulation,
        }
        if self.sample.slots is not None:
            found["sample.slots"] = self.sample.slots
        if self.to_prealign():
            size = self.prealign.pairs_per_step // self.prealign.accumulation
            found["prealign.pairs_per_step / prealign.accumulation"] = size
        return found

    @property
    def trains(self) -> bool:
        """Return whether a policy is trained."""
        return self.evaluate.policy == "aligned"

    @property
    def calibrated(self) -> bool:
        """Return whether the trained step is scaled on calibration prompts."""
        return self.prompts.calibration is not None

    @property
    def needs_predictions(self) -> bool:
        """Return whether λ or the labels are made of scores as features predict them."""
        return self.dual.multipliers == "attainable" or self.align.labels == "denoised"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if not self.constraints:
            yield "constraints", "is empty; name at least one, for example constraints.safe"
        for name in self.constraints.keys() & self.evaluate.also.keys():
            yield f"evaluate.also.{name}", "has the name of a constraint; choose another"
        if self.align.supervision.from_samples and self.align.group_size > self.sample.responses:
            yield (
                "align.group_size",
                f"is {self.align.group_size}; use 2 up to sample.responses, which is {self.sample.responses}",
            )
        if self.trains and "adapter" in self.export:
            yield from self._adapter_conflicts()
        if self.dual.given is not None:
            yield from self._weight_conflicts(self.dual.given)
        if self.sample.feature_layers == ():
            yield from self._feature_conflicts()
        if self.calibrated and self.align.lora is None:
            yield (
                "prompts.calibration",
                "is set, and only an adapter can be scaled; set align.lora, or leave it out",
            )
        yield from self._data_conflicts()
        yield from self._new_sample_conflicts()
        if self.rounds > 1:
            yield from self._round_conflicts()
        if self.align.dial and not self.calibrated:
            yield "align.dial", "is true, and prompts.calibration null, by which it is set; give a file"

    def _adapter_conflicts(self) -> Iterator[tuple[str, str]]:
        if self.align.lora is None:
            yield "export", "has adapter, and align.lora is null, so there is none; use [merged]"
        if self.model.adapter is not None:
            yield (
                "export",
                "has adapter, but model.adapter is a part of what the new one is trained on; use [merged], "
                "or give a model.path with the first adapter merged",
            )

    def _weight_conflicts(self, given: dict[str, float]) -> Iterator[tuple[str, str]]:
        names = ("reward", *self.constraints)
        for name in sorted(given.keys() ^ {*names}, key=lambda each: (each in names, each)):  # a slip first
            unknown = f"is no score; the scores are {', '.join(names)}"
            yield f"dual.multipliers.{name}", "is missing; give a number" if name in names else unknown
        if self.align.combination == "sequence" and given["reward"] != 1:
            problem = "is {:g}, and the first step of align.combination sequence is on r; leave it out"
            yield "dual.multipliers.reward", problem.format(given["reward"])
        if not any(given.values()):
            yield "dual.multipliers", "are all 0, so that no response would be better than another; raise one"

    def _feature_conflicts(self) -> Iterator[tuple[str, str]]:
        needs = "and sample.feature_layers is empty; leave that out, or use"
        if self.dual.multipliers == "attainable":
            yield "dual.multipliers", f"is 'attainable', {needs} plug_in"
        if self.align.labels == "denoised":
            yield "align.labels", f"is 'denoised', {needs} scores"

    def _data_conflicts(self) -> Iterator[tuple[str, str]]:
        supervision = self.align.supervision
        grouped = [name for name, item in self.constraints.items() if item.group is not None]
        if not supervision.from_samples and supervision.label is None and grouped:
            yield (
                f"constraints.{grouped[0]}.group",
                "is set, and a dataset's pairs have no group; set align.pairs to samples",
            )
        if self.preferences is not None:
            return
        if not supervision.from_samples:
            yield "align.pairs", "is 'dataset'; add the section preferences, which says where it lies"
        for name, source in self.prompts.sources().items():
            if source == PREFERENCES:
                yield f"prompts.{name}", "is 'preferences'; add the section preferences, or give a file"
        for key, scorer in (*self.trained_on().values(), *self.measured().values()):
            if asked := scorer.to_prealign:
                yield (
                    f"{key}.prealigned.preference",
                    f"is {asked.preference!r}; add the section preferences, which says where the pairs lie",
                )

    def _round_conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.align.supervision.from_samples:
            yield (
                "align.pairs",
                "is 'dataset', and rounds train on samples; set rounds to 1, or pairs to samples",
            )
        if self.align.safety_offset is not None:
            yield (
                "align.safety_offset",
                "is set, and rounds label by r_λ; set rounds to 1, or the offset to null",
            )
        if self.align.combination != "sum":
            problem = f"is {self.align.combination!r}, and rounds train on r_λ; set rounds to 1, or use sum"
            yield "align.combination", problem
        if self.align.dial:
            yield "align.dial", "is true, and rounds train on r_λ; set rounds to 1, or dial to false"
        if self.online.responses < self.align.group_size:
            yield (
                "online.responses",
                f"is {self.online.responses}; use align.group_size, {self.align.group_size}, or more",
            )

    def _new_sample_conflicts(self) -> Iterator[tuple[str, str]]:
        every, constraints = self.trained_on(), self.constraint_scorers()
        needs = {
            "evaluate.policy to aligned": every if self.evaluate.policy == "resample" else {},
            "rounds to 1": every if self.trains and self.rounds > 1 else {},
            "prompts.calibration to null": constraints if self.trains and self.calibrated else {},
        }
        for setting, (key, scorer) in ((s, each) for s, found in needs.items() for each in found.values()):
            if not scorer.scores_new_responses:
                yield (
                    key,
                    f"is a {scorer.kind}, which cannot score new samples; set {setting}, or use another",
                )

"""The whole schema of a run, as frozen dataclasses. ``the command line`` parses YAML and flags into it.

Every field is read somewhere; a comment behind a field is its help text on the
command line. What a field may hold beyond its type is checked by ``check_run``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from cann_jax.config.mesh import DistributedConfig, MeshConfig, check_mesh
from cann_jax.config.prealign import PrealignConfig, check_prealign, to_prealign
from cann_jax.config.preferences import PreferencesConfig, check_preferences
from cann_jax.config.training import AlignConfig, OnlineConfig
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """The reference model, and the starting point of the aligned one.

    Args:
        path: A Hugging Face folder, a .gguf file, ``embedded:smollm2-135m-instruct``, or ``owner/name`` on
            the Hub.
        dtype: Dtype of matrix products; log-probs, norms and sums are float32 always.
        revision: Branch, tag or commit of a model on the Hub; null for its default branch.
        adapter: Folder of a LoRA adapter in PEFT's format, merged into the model as it is read.
        attention: Kernel of attention over whole sequences; ``auto`` is splash on a TPU and cudnn on a
            GPU where dtype and model let them serve, else xla.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    revision: str | None = None
    adapter: str | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"


PREFERENCES = "preferences"  # in place of a file of prompts: those of the preference pairs


@dataclass(frozen=True)
class PromptsConfig:
    """Prompts: JSON lines with a ``prompt`` (and optionally ``id`` and ``group``) each.

    Args:
        train: File of prompts that are sampled, scored and trained on; ``preferences`` takes the distinct
            prompts of the preference pairs, in an order drawn from the seed.
        heldout: File of prompts that only the evaluation sees; ``preferences`` takes those of the held-out
            pairs that no training pair has.
        on_overlong: What happens to a prompt longer than ``max_tokens``.
        max_tokens: Longest prompt, template included, in tokens.
        template: ``chat`` for the tokenizer's chat template, or a text that holds ``{prompt}``.
        next_turn: What follows ``template`` for a further turn of a dialogue: a text with ``{reply}`` and
            ``{prompt}``; null refuses dialogues, but for the chat template, which writes them itself.
        system: System message of the chat template; null leaves the template's default.
        limit: Use only the first this many prompts of each.
    """

    train: str
    heldout: str
    on_overlong: Literal["error", "drop", "truncate_prompt_left"]
    max_tokens: int = 512
    template: str = "chat"
    next_turn: str | None = None
    system: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class SampleConfig:
    """Sampling from the reference.

    Args:
        responses: Responses a prompt (K).
        max_new_tokens: Longest response, in tokens, the end token included.
        temperature: 1 samples the reference itself; anything else another reference policy.
        top_p: Nucleus mass; 1 keeps the whole vocabulary.
        allow_changed_reference: Accept a temperature or top_p other than 1 for alignment.
        prompts_per_batch: Prompts sampled at once, and the size of a shard on disk.
        stop: Further texts that end a response; each must be one token.
    """

    responses: int = 16
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    allow_changed_reference: bool = False
    prompts_per_batch: int = 16
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewardConfig:
    """What is maximised.

    Args:
        scorer: ``kind`` and that kind's keys, listed below.
    """

    scorer: dict[str, Any]


@dataclass(frozen=True)
class ConstraintConfig:
    """One constraint; exactly one of ``margin``, ``at_least`` and ``max_unsafe``.

    Args:
        scorer: ``kind`` and that kind's keys, listed below.
        margin: Required improvement of the mean score over the reference, in the score's units.
        at_least: Required mean score, in the score's units.
        max_unsafe: Largest share of responses that may score below ``unsafe_below``.
        unsafe_below: The score under which a response is unsafe.
        group: Only prompts of this ``group`` count; null takes all.
        clip: Scores are cut to [low, high] first; null leaves them.
    """

    scorer: dict[str, Any]
    margin: float | None = None
    at_least: float | None = None
    max_unsafe: float | None = None
    unsafe_below: float = 0.0
    group: str | None = None
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class DualConfig:
    """The dual problem.

    Args:
        beta: Weight of the KL term (β), shared by the dual and the preference loss.
        method: ``lbfgsb`` (jaxopt) or ``newton`` (safeguarded projected Newton).
    """

    beta: float = 0.1
    method: Literal["lbfgsb", "newton"] = "lbfgsb"


@dataclass(frozen=True)
class EvaluateConfig:
    """The measurement on held-out prompts.

    Args:
        responses: Responses a prompt, from the reference and from the aligned model.
        confidence: Level of the paired-bootstrap intervals.
        bootstrap: Bootstrap resamples of the prompts.
        examples: Before/after samples in the report.
        also: Further scorers that are measured only, by name: ``kind`` and that kind's keys.
    """

    responses: int = 8
    confidence: float = 0.95
    bootstrap: int = 2000
    examples: int = 12
    also: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """A whole run: sample, score, dual, align, evaluate.

    Args:
        name: The run's folder is ``run_dir/name``.
        model: The reference model.
        prompts: Training and held-out prompts.
        reward: What is maximised.
        constraints: What must hold, by name.
        sample: Sampling from the reference.
        dual: The dual problem.
        align: The preference optimisation.
        evaluate: The measurement on held-out prompts.
        rounds: Rounds in all; 1 is the one-shot method, more go on from it on the policy's own samples.
        online: Rounds after the first.
        preferences: Human preferences to train on; null where nothing reads them.
        prealign: DPO of the models that implicit scorers with ``prealigned.preference`` ask for.
        mesh: Devices by axis.
        distributed: Processes of one run.
        run_dir: Where runs lie.
        seed: Seed of every random choice.
    """

    name: str
    model: ModelConfig
    prompts: PromptsConfig
    reward: RewardConfig
    constraints: dict[str, ConstraintConfig]
    sample: SampleConfig = field(default_factory=SampleConfig)
    dual: DualConfig = field(default_factory=DualConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    rounds: int = 1
    online: OnlineConfig = field(default_factory=OnlineConfig)
    preferences: PreferencesConfig | None = None
    prealign: PrealignConfig = field(default_factory=PrealignConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    run_dir: str = "runs"
    seed: int = 0


def check_run(config: RunConfig) -> None:
    """Raise InputError, with key and mend, where values that fit their types cannot work together."""
    for key, value in _positive_values(config).items():
        if not value > 0:
            raise InputError(f"{key} is {value}; it must be greater than 0")
    _check_constraints(config.constraints)
    _check_reference(config.sample)
    _check_alignment(config)
    if config.rounds > 1:
        _check_rounds(config)
    if config.preferences is not None:
        check_preferences(config.preferences)
    check_prealign(config.prealign)
    if config.preferences is None:
        _check_nothing_prealigned(config)
    check_mesh(config.mesh, config.distributed)
    for name in ("train", "heldout"):
        if getattr(config.prompts, name) == PREFERENCES and config.preferences is None:
            raise InputError(f"prompts.{name} is 'preferences'; add the section preferences, or give a file")
    if "{prompt}" not in config.prompts.template and config.prompts.template != "chat":
        raise InputError("prompts.template must be 'chat' or a text that holds {prompt}")
    if not 0 < config.evaluate.confidence < 1:
        raise InputError(f"evaluate.confidence is {config.evaluate.confidence}; use a number between 0 and 1")


def _positive_values(config: RunConfig) -> dict[str, float]:
    lora = config.align.lora
    return {
        "dual.beta": config.dual.beta,
        "sample.temperature": config.sample.temperature,
        "sample.top_p": config.sample.top_p,
        "sample.max_new_tokens": config.sample.max_new_tokens,
        "sample.prompts_per_batch": config.sample.prompts_per_batch,
        "prompts.max_tokens": config.prompts.max_tokens,
        "prompts.limit": 1 if config.prompts.limit is None else config.prompts.limit,
        "align.epochs": config.align.epochs,
        "align.prompts_per_step": config.align.prompts_per_step,
        "align.accumulation": config.align.accumulation,
        "align.vocabulary_chunks": config.align.vocabulary_chunks,
        "align.checkpoint_every": config.align.checkpoint_every,
        "align.optimizer.learning_rate": config.align.optimizer.learning_rate,
        "align.optimizer.clip_norm": config.align.optimizer.clip_norm,
        "align.lora.rank": 1 if lora is None else lora.rank,
        "rounds": config.rounds,
        "online.responses": config.online.responses,
        "online.prompts": 1 if config.online.prompts is None else config.online.prompts,
        "online.dual_step": config.online.dual_step,
        "evaluate.responses": config.evaluate.responses,
        "evaluate.bootstrap": config.evaluate.bootstrap,
    }


_COLUMNS = ("reward", "prompt_id", "response", "group", "summary")


def _check_constraints(constraints: dict[str, ConstraintConfig]) -> None:
    if not constraints:
        raise InputError("constraints is empty; name at least one, for example constraints.safe")
    for name, constraint in constraints.items():
        targets = (constraint.margin, constraint.at_least, constraint.max_unsafe)
        if sum(target is not None for target in targets) != 1:
            raise InputError(f"constraints.{name} needs exactly one of margin, at_least and max_unsafe")
        if name in _COLUMNS:
            raise InputError(
                f"constraints.{name}: the name is taken by a column of the score table; choose another"
            )


def _check_reference(sample: SampleConfig) -> None:
    changed = sample.temperature != 1 or sample.top_p != 1
    if changed and not sample.allow_changed_reference:
        raise InputError(
            f"sample.temperature {sample.temperature} and sample.top_p {sample.top_p} sample another policy "
            "than the reference; set both to 1, or set sample.allow_changed_reference to true"
        )
    if sample.top_p > 1:
        raise InputError(f"sample.top_p is {sample.top_p}; use a number up to 1")


def _check_alignment(config: RunConfig) -> None:
    align, responses = config.align, config.sample.responses
    if align.prompts_per_step % align.accumulation:
        raise InputError(
            f"align.accumulation is {align.accumulation}; "
            f"use a divisor of align.prompts_per_step, which is {align.prompts_per_step}"
        )
    if not 2 <= align.group_size <= responses:
        raise InputError(
            f"align.group_size is {align.group_size}; use 2 up to sample.responses, which is {responses}"
        )
    _check_labels(config)
    if align.keep_checkpoints < 2:
        raise InputError(f"align.keep_checkpoints is {align.keep_checkpoints}; use 2 or more")
    if align.lora is not None and not 0 <= align.lora.dropout < 1:
        raise InputError(f"align.lora.dropout is {align.lora.dropout}; use 0 up to, not including, 1")
    _check_export(config)


def _check_export(config: RunConfig) -> None:
    export = config.align.export
    if export not in ("adapter", "both"):
        return
    if config.align.lora is None:
        raise InputError(f"align.export is {export} and align.lora null, so there is no adapter; use merged")
    if config.model.adapter is not None:
        raise InputError(
            f"align.export is {export}, but model.adapter is a part of what the new adapter is trained on; "
            "use merged, or give a model.path with the first adapter merged"
        )


def _check_rounds(config: RunConfig) -> None:
    if config.align.pairs == "dataset":
        raise InputError(
            "align.pairs is 'dataset', and rounds train on samples; set rounds to 1, or pairs to samples"
        )
    if config.online.responses < config.align.group_size:
        raise InputError(
            f"online.responses is {config.online.responses}; "
            f"use align.group_size, which is {config.align.group_size}, or more"
        )
    for key, scorer in _scorers_trained_on(config).items():
        if scorer["kind"] == "column":
            raise InputError(
                f"{key} is a column, which has no scores of new samples; set rounds to 1, or use another kind"
            )


def scorers_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Every scorer's dictionary by its key, those that only measure included."""
    also = {f"evaluate.also.{name}": item for name, item in config.evaluate.also.items()}
    return _scorers_trained_on(config) | also


def _scorers_trained_on(config: RunConfig) -> dict[str, dict[str, Any]]:
    constraints = {f"constraints.{name}.scorer": item.scorer for name, item in config.constraints.items()}
    return {"reward.scorer": config.reward.scorer} | constraints


def _check_nothing_prealigned(config: RunConfig) -> None:
    for key, scorer in scorers_of(config).items():
        if asked := to_prealign(scorer):
            raise InputError(
                f"{key}.prealigned.preference is {asked.preference!r}; add the section preferences, "
                "which says where it lies"
            )


def _check_labels(config: RunConfig) -> None:
    align = config.align
    if not align.label_temperature > 0:
        raise InputError(f"align.label_temperature is {align.label_temperature}; it must be greater than 0")
    if not 0 <= align.label_smoothing < 0.5:
        raise InputError(f"align.label_smoothing is {align.label_smoothing}; use 0 up to, not including, 0.5")
    human = align.preference != "pseudo_reward"
    if human and align.pairs == "samples":
        raise InputError(
            f"align.preference is {align.preference!r} and align.pairs 'samples', which nobody compared; "
            "set align.pairs to dataset"
        )
    if align.pairs == "dataset" and config.preferences is None:
        raise InputError("align.pairs is 'dataset'; add the section preferences, which says where it lies")
    if align.pairs == "dataset" and align.group_size != 2:
        raise InputError(f"align.group_size is {align.group_size}; the pairs of a dataset need 2")
    if human and align.label_temperature != 1:
        raise InputError(
            f"align.label_temperature is {align.label_temperature}, and the labels of align.preference "
            f"{align.preference!r} are 0 or 1; leave it out"
        )
    if align.loss == "regression" and (human or _labels_changed(align)):
        raise InputError(
            "align.loss 'regression' reads differences of r_λ and no labels; leave out align.preference, "
            "align.labels, align.label_temperature and align.label_smoothing, or use dpo or ipo"
        )
    grouped = [name for name, item in config.constraints.items() if item.group is not None]
    if align.pairs == "dataset" and not human and grouped:
        raise InputError(
            f"constraints.{grouped[0]}.group: a dataset's pairs have no group; set align.pairs to samples"
        )


def _labels_changed(align: AlignConfig) -> bool:
    return align.labels == "drawn" or align.label_temperature != 1 or align.label_smoothing > 0

"""Training on preferences, for every stage that does it: what differs between them is ``Training``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import nnx

from cann_jax.config.run import RunConfig
from cann_jax.config.training import LoraConfig, Loss, PreferenceTrainingConfig, Supervision
from cann_jax.core.losses import listwise_floor
from cann_jax.data.builders.records import ABSENT, SAFETY_COLUMNS
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.attach import with_adapters
from cann_jax.models.adapters.scale import scaled, scaled_decoder
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.load import new_adapters
from cann_jax.models.files.weight_names import flat_state
from cann_jax.models.flops import flops_a_token
from cann_jax.models.linear import LoraParam
from cann_jax.run.compute import Compute
from cann_jax.run.dial import dialled_weights
from cann_jax.run.outputs import expert_folder, read_pairs, read_scale, read_weights
from cann_jax.run.run import Run
from cann_jax.runtime.memory import smaller_step, within_memory
from cann_jax.training.batching import Batching
from cann_jax.training.health import Watch
from cann_jax.training.heldout import Heldout, heldout_rows
from cann_jax.training.loop import Pace, fit
from cann_jax.training.metrics import tokens_trained
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceObjective
from cann_jax.training.reference import with_reference
from cann_jax.training.step import start


@dataclass(frozen=True)
class Training:
    """One training on preferences.

    Args:
        key: Section of the configuration that its settings come from, for messages.
        settings: Its settings.
        supervision: Which pairs it learns from.
        batching: How a step's batch is drawn.
        loss: As in ``AlignConfig``.
        beta: β of the loss.
        safety_offset: As in ``AlignConfig``.
    """

    key: str
    settings: PreferenceTrainingConfig
    supervision: Supervision
    batching: Batching
    loss: Loss
    beta: float
    safety_offset: float | None = None

    @property
    def scale(self) -> float | None:
        """What r_λ is divided by in the log-ratios that the loss has its minimum at; None where it is not."""
        safe, smoothed = self.safety_offset is not None, self.batching.label_smoothing > 0
        if self.supervision.label is not None or self.loss == "ipo" or safe or smoothed:
            return None
        return self.beta * (self.batching.label_temperature if self.loss == "dpo" else 1)

    @property
    def start(self) -> tuple[str, float] | None:
        """The loss of the reference, as a formula and in numbers; None where it depends on the data."""
        size = self.batching.group_size
        if self.safety_offset is not None:
            return None
        known = {
            "dpo": ("ln 2", np.log(2)),
            "ipo": ("1/(4β²)", 1 / (4 * self.beta**2)),
            "listwise": (f"ln {size}", np.log(size)),
        }
        return known.get(self.loss)


class Model(NamedTuple):
    """A split decoder: graph, weights to train as they are in the reference, and weights never trained."""

    graph: Any
    reference: Any
    frozen: Any

    def decoder(self, weights: Any) -> Decoder:
        """Return the decoder with these weights in the place of the trained ones."""
        decoder: Decoder = nnx.merge(self.graph, weights, self.frozen)
        return decoder


def alignment(config: RunConfig) -> Training:
    """Return the training of the stage ``align``, which rounds continue."""
    align, supervision = config.align, config.align.supervision
    batching = Batching(
        seed=config.seed,
        epochs=align.epochs,
        prompts_per_step=align.prompts_per_step,
        group_size=align.group_size,
        selection=align.selection,
        soft_labels=align.soft_labels,
        label_temperature=align.label_temperature if supervision.label is None else 0.0,
        label_smoothing=align.label_smoothing,
        ragged=not supervision.from_samples,
        accumulation=align.accumulation,
    )
    return Training("align", align, supervision, batching, align.loss, config.dual.beta, align.safety_offset)


def training_folders(config: RunConfig) -> tuple[str, ...]:
    """Return the folders, below the run's, of the trainings that the policy is made of."""
    if not config.trains:
        return ()
    step = () if config.align.side_by_side else ("align",)
    return (*map(expert_folder, config.experts()), *step)


def prealignments(config: RunConfig) -> dict[str, Training]:
    """Return the DPO of each model that the run pre-aligns, by its folder below ``prealign``."""
    settings = config.prealign
    batching = Batching(
        seed=config.seed,
        epochs=settings.epochs,
        prompts_per_step=settings.pairs_per_step,
        label_temperature=0.0,
        label_smoothing=settings.label_smoothing,
        ragged=True,
        accumulation=settings.accumulation,
    )
    return {
        asked.name: Training(
            "prealign", settings, Supervision(False, asked.preference), batching, "dpo", asked.beta
        )
        for asked in config.to_prealign()
    }


def split_decoder(run: Run, lora: LoraConfig | None) -> Model:
    """Return the reference, with adapters that add nothing yet, split by what is trained.

    With adapters the other weights are those of ``run.reference``, which an earlier stage may have loaded: a
    copy of them would take as much memory again. Without, all are loaded, in float32.
    """
    if lora is None:
        return split(run.load(wide=True), None)
    fresh = flat_state(new_adapters(run.config.seed, run.files.config, lora))
    return Model(*with_adapters(run.reference, lora, {path: leaf[...] for path, leaf in fresh}))


def split(decoder: Decoder, lora: LoraConfig | None) -> Model:
    """Split a decoder by what a training changes: the adapters, or all weights."""
    kinds: tuple[Any, ...] = (nnx.Param if lora is None else LoraParam, ...)
    return Model(*nnx.split(decoder, *kinds))


def objective_of(training: Training, graph: Any, steps: int) -> PreferenceObjective:
    """Return what a training of ``steps`` steps minimizes, and how.

    Raises:
        InputError: The warm-up is no shorter than the run.
    """
    settings = training.settings
    return PreferenceObjective(
        graph=graph,
        optimizer=optimizer(settings.optimizer, steps),
        loss=training.loss,
        beta=training.beta,
        chunks=settings.vocabulary_chunks,
        safety_offset=training.safety_offset or 0.0,
        rematerialise=settings.rematerialise,
        accumulation=settings.accumulation,
    )


def train(
    run: Run,
    training: Training,
    model: Model,
    data: PreferenceData,
    folder: epath.Path,
    weights: Any = None,
) -> Any:
    """Train, or continue from the newest checkpoint in ``folder``; return the trained weights.

    Args:
        run: The run.
        training: How.
        model: The reference, split.
        data: What on; log-probs under the reference are computed here.
        folder: Folder of the checkpoints, metrics and reference log-probs.
        weights: Weights to start from; None starts from the reference.

    Raises:
        InputError: A loss that is not finite (the last good checkpoint stays), or a warm-up that is too long.
        ResourceError: Memory is exhausted.
    """
    settings, size = training.settings, training.batching.prompts_per_step

    def remedy(times: float) -> str:
        return smaller_step(f"{training.key}.", settings.accumulation, size, settings.rematerialise, times)

    with within_memory(training.key, remedy):
        return _train(run, training, model, data, folder, weights)


def _train(
    run: Run, training: Training, model: Model, data: PreferenceData, folder: epath.Path, weights: Any
) -> Any:
    objective = objective_of(training, model.graph, data.steps)
    data = with_reference(objective, model.reference, model.frozen, data, folder)
    print(_heldout_line(training, data), flush=True)
    if weights is None and (line := _agreement_line(data)):
        print(f"{training.key}: {line}", flush=True)
    if training.loss == "listwise" and weights is None:
        print(_listwise_bounds(training, data), flush=True)
    seed = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    settings = training.settings
    rate = f"{training.key}.optimizer.learning_rate"
    flops = flops_a_token(run.files.config, data.row, all_weights=settings.lora is None)
    pace = Pace(training.key, rate, data.steps, settings.checkpoint_every, settings.keep_checkpoints, flops)
    watch = _watch(training, objective, model, data, weights)
    state = start(objective, model.reference if weights is None else weights)
    trained = fit(objective, state, model.frozen, data.batch, seed, pace, folder, watch).weights
    run.ledger.add(Compute(policy_rounds=1, training_flops=flops * tokens_trained(folder)))
    return trained


def _watch(
    training: Training, objective: PreferenceObjective, model: Model, data: PreferenceData, weights: Any
) -> Watch:
    """Return what watches the training that begins with these weights; None are the reference's."""
    settings = training.settings
    heldout = Heldout(objective, data, model.frozen, training.scale) if len(data.heldout) else None
    start = np.zeros(0)
    if heldout is not None:
        start = heldout.losses(heldout.reference if weights is None else heldout.logps(weights))
    every, clip = settings.checkpoint_every, settings.optimizer.clip_norm
    return Watch(training.key, data.steps, every, clip, heldout, start, settings.early_stop)


def _agreement_line(data: PreferenceData) -> str | None:
    """Say how far trainer's and sampler's log-probs of the reference's samples are apart, if known."""
    apart = np.abs(data.reference - data.responses.logps) / data.responses.lengths
    known = apart[np.isfinite(apart)]
    if not len(known):
        return None
    mean, most = known.mean(), known.max()
    return (
        f"log-probs of trainer and sampler differ by {mean:.2g} nats a token on average, {most:.2g} at most"
    )


def _heldout_line(training: Training, data: PreferenceData) -> str:
    """Say which part of the data is kept from training."""
    key, wanted = f"{training.key}.heldout_prompts", training.settings.heldout_prompts
    rows, kept = len(data.responses.prompts), data.responses.prompts.take(data.heldout).prompts
    count = len({prompt.content for prompt in kept})
    what = f"{count} of {rows} prompts"
    if len(kept) > count:
        what = f"{count} prompts, {len(kept)} of {rows} pairs"
    why = f" is {wanted}, but at most a quarter of all is kept" if count < wanted else ""
    return f"{training.key}: kept from training, to watch it: {what} ({key}{why})"


def _listwise_bounds(training: Training, data: PreferenceData) -> str:
    assert training.start is not None, "the listwise loss starts at a number"
    formula, value = training.start
    groups = np.concatenate([data.reward[data.places(step)] for step in range(data.steps)])
    floor = float(np.mean(np.asarray(jax.jit(listwise_floor)(groups, training.beta))))
    return f"listwise: loss starts at {formula} = {value:.3f}, its floor is {floor:.3f}"


def aligned_decoder(run: Run) -> Decoder:
    """Return the model that the run trained, adapters in place and scaled."""
    decoder, scale = trained_decoder(run)
    return decoder if scale == 1 else scaled_decoder(decoder, scale)


def trained_decoder(run: Run) -> tuple[Decoder, float]:
    """Return the model that the run trained, adapters as they were trained, and their scale.

    It is over the reference's own weights; without adapters it is loaded whole, beside the reference.
    """
    lora = run.config.policy_lora
    model = split_decoder(run, None) if lora is None else Model(*with_adapters(run.reference, lora))
    if run.config.rounds > 1:  # which begin with the scaled step
        return model.decoder(read_weights(run, "rounds", model.reference)), 1.0
    if run.config.align.dial:  # which the coefficients scale
        return model.decoder(dialled_weights(run, model.reference)), 1.0
    return model.decoder(read_weights(run, "align", model.reference)), read_scale(run)


def one_shot_weights(run: Run, model: Model) -> Any:
    """Read what the one preference step gave, at the scale that was chosen for it."""
    weights = read_weights(run, "align", model.reference)
    return scaled(weights, read_scale(run)) if run.config.calibrated else weights


def preference_data(
    training: Training,
    responses: Responses,
    reward: np.ndarray,
    scores: dict[str, np.ndarray] | None = None,
    among: Sequence[Prompt] | None = None,
    safe: np.ndarray | None = None,
) -> PreferenceData:
    """Return the data of a training whose reference log-probs are not known yet.

    Args:
        training: The training.
        responses: Responses (N, K).
        reward: (N, K) r_λ, or which response people prefer.
        scores: Its terms, for display.
        among: As in ``heldout_of``.
        safe: (N, K) 1 safe, 0 unsafe, ABSENT not known. A training with ``safety_offset`` leaves out, and
            counts, prompts with one that is not known or none that is safe; others do not read it.

    Raises:
        InputError: No prompt is left.
    """
    if training.safety_offset is None:
        safe = None
    if safe is not None:
        rows = _with_safe(training, safe)
        responses, reward, safe = responses.take(rows), reward[rows], safe[rows]
        scores = {name: values[rows] for name, values in (scores or {}).items()}
    unknown = np.full(responses.shape, np.nan, np.float32)
    heldout = heldout_of(training, responses.prompts.prompts, among)
    return PreferenceData(training.batching, responses, reward, unknown, scores or {}, heldout, safe)


def _with_safe(training: Training, safe: np.ndarray) -> np.ndarray:
    """Return the indices of the rows with a safe response, and all judged; print how many are not."""
    unknown, unsafe = (safe == ABSENT).any(1), (safe == 0).all(1)
    rows = np.flatnonzero(~unknown & ~unsafe)
    counts = f"{unsafe.sum()} of {len(safe)} have no safe response, {unknown.sum()} are not judged"
    if not len(rows):
        remedy = f"use data with {SAFETY_COLUMNS}, or " if unknown.any() else ""
        raise InputError(
            f"{training.key}.safety_offset: no prompt is left ({counts}); {remedy}set it to null"
        )
    share = np.mean(safe[rows] == 1)
    print(f"{training.key}: {counts}; left out. Of the others' responses, {share:.0%} are safe")
    return rows


def heldout_of(
    training: Training, prompts: Sequence[Prompt], among: Sequence[Prompt] | None = None
) -> np.ndarray:
    """Return the indices of those items, by their prompts, that the training is watched on.

    ``among`` are all prompts that they are chosen from; None for ``prompts``.

    Raises:
        InputError: None can be kept from training, and early stopping needs some.
    """
    settings = training.settings
    rows = heldout_rows(prompts, settings.heldout_prompts, training.batching.seed, among)
    if settings.early_stop and not len(rows):
        raise InputError(
            f"{training.key}.early_stop is true, and of {len(prompts)} prompts none can be kept from "
            "training; give 4 prompts or more, or set it to false"
        )
    return rows


def human_preferences(run: Run, training: Training) -> PreferenceData:
    """Read the pairs with the label that the training learns; the preferred response has the reward 1.

    Raises:
        InputError: No pair has the label.
    """
    dimension, pairs = training.supervision.label, read_pairs(run, "train")
    assert dimension is not None, "only a training on people's labels reads them"
    chosen = labelled(pairs, dimension)
    if len(chosen) < len(pairs):
        without = len(pairs) - len(chosen)
        print(f"preferences: {without} of {len(pairs)} pairs have no label {dimension!r}; left out")
    reward = np.eye(2, dtype=np.float32)[getattr(pairs, dimension)[chosen]]
    pairs = pairs.take(chosen)
    return preference_data(training, pairs.responses, reward, safe=pairs.safe)

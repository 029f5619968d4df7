"""Training on preferences, for every stage that does it: what differs between them is ``Training``."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from etils import epath
from flax import nnx

from cann_jax.config.run import RunConfig
from cann_jax.config.training import LoraConfig, Loss, PreferenceTrainingConfig, Supervision
from cann_jax.core.losses import listwise_floor
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.progress import track
from cann_jax.models.adapters.peft import export_adapter
from cann_jax.models.adapters.scale import scaled, scaled_decoder
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.folder import export_folder
from cann_jax.models.linear import LoraParam
from cann_jax.run.outputs import MODEL, read_pairs, read_scale, read_weights
from cann_jax.run.run import ModelRun, Run
from cann_jax.run.scorers import ADAPTER
from cann_jax.runtime.distributed import agreed
from cann_jax.runtime.placement import fetch
from cann_jax.training.batching import Batching
from cann_jax.training.loop import Pace, fit
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceObjective
from cann_jax.training.step import forward, start

Export = Literal["merged", "adapter", "both", "none"]


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
    """

    key: str
    settings: PreferenceTrainingConfig
    supervision: Supervision
    batching: Batching
    loss: Loss
    beta: float

    @property
    def start(self) -> tuple[str, float] | None:
        """The loss of the reference, as a formula and in numbers; None where it depends on the data."""
        size = self.batching.group_size
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
    )
    return Training("align", align, supervision, batching, align.loss, config.dual.beta)


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
    )
    return {
        asked.name: Training(
            "prealign", settings, Supervision(False, asked.preference), batching, "dpo", asked.beta
        )
        for asked in config.to_prealign()
    }


def split_decoder(run: ModelRun[Any], lora: LoraConfig | None) -> Model:
    """Load the reference, with adapters that add nothing yet, and split it by what is trained."""
    return split(run.load(lora, wide=lora is None), lora)


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
    """
    objective = objective_of(training, model.graph, data.steps)
    data = with_reference(objective, model, data, folder)
    if training.loss == "listwise" and weights is None:
        print(_listwise_bounds(training, data), flush=True)
    seed = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    settings = training.settings
    rate = f"{training.key}.optimizer.learning_rate"
    pace = Pace(training.key, rate, data.steps, settings.checkpoint_every, settings.keep_checkpoints)
    state = start(objective, model.reference if weights is None else weights)
    return fit(objective, state, model.frozen, data.batch, seed, pace, folder).weights


def _listwise_bounds(training: Training, data: PreferenceData) -> str:
    size = training.batching.group_size
    groups = np.concatenate([data.reward[data.places(step)] for step in range(data.steps)])
    floor = float(np.mean(listwise_floor(jnp.asarray(groups), training.beta)))
    return f"listwise: loss starts at ln {size} = {np.log(size):.3f}, its floor is {floor:.3f}"


def aligned_decoder(run: Run) -> Decoder:
    """Load the model that the run trained, adapters in place and scaled."""
    model = split_decoder(run, run.config.align.lora)
    if run.config.rounds > 1:
        return model.decoder(read_weights(run, "rounds", model.reference))
    return model.decoder(one_shot_weights(run, model))


def one_shot_weights(run: Run, model: Model) -> Any:
    """Read what the one preference step gave, at the scale that was chosen for it."""
    weights = read_weights(run, "align", model.reference)
    return scaled(weights, read_scale(run)) if run.config.calibrated else weights


def export(run: Run, decoder: Decoder, wanted: Export, folder: epath.Path, scale: float = 1.0) -> None:
    """Write a trained model as others open it: merged into one folder, as an adapter, or both.

    The update of its adapters is ``scale`` times as large in what is written.
    """
    model = run.config.model
    if wanted in ("merged", "both"):
        merged = decoder if scale == 1 else scaled_decoder(decoder, scale)
        export_folder(merged, run.files.tokenizer, folder / MODEL, model.dtype)
    if wanted in ("adapter", "both"):
        export_adapter(decoder, folder / ADAPTER, model.path, run.files.fingerprint(), scale)


def preference_data(
    batching: Batching, responses: Responses, reward: np.ndarray, scores: dict[str, np.ndarray] | None = None
) -> PreferenceData:
    """Return the data of a training whose reference log-probs are not known yet."""
    unknown = np.full(responses.shape, np.nan, np.float32)
    return PreferenceData(batching, responses, reward, unknown, scores or {})


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
    return preference_data(training.batching, pairs.take(chosen).responses, reward)


def with_reference(
    objective: PreferenceObjective, model: Model, data: PreferenceData, folder: epath.Path
) -> PreferenceData:
    """Return ``data`` with the reference's log-probs, as training computes them; finished shards are kept."""
    reference = data.reference.copy()
    paths = [folder / f"reference-{step:05d}.parquet" for step in range(data.steps)]
    there = agreed([path.exists() for path in paths])
    for step in track(range(data.steps), "reference log-probs"):
        rows, columns = data.places(step)
        if not np.isnan(reference[rows, columns]).any():
            continue
        if there[step]:
            logps = read_table(paths[step]).column("logp").to_numpy().reshape(columns.shape)
        else:
            logps = fetch(forward(objective, model.reference, model.frozen, data.batch(step)))
            write_table(paths[step], pa.table({"logp": pa.array(logps.reshape(-1), pa.float32())}))
        reference[rows, columns] = logps
    return dataclasses.replace(data, reference=reference)

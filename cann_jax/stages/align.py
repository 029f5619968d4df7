"""The one unconstrained alignment, on pairs labelled by r + ⟨λ*, g⟩ or, for the baselines, by people."""

import dataclasses

import jax
import numpy as np
import pyarrow as pa
from etils import epath
from flax import nnx

from cann_jax.config.run import RunConfig
from cann_jax.core import pseudo_reward
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.progress import track
from cann_jax.models.decoder import Decoder
from cann_jax.models.export import export_folder
from cann_jax.models.peft import export_adapter
from cann_jax.run.run import Run, Stage, read_pairs, settings_of, stage
from cann_jax.run.training import ADAPTER, TRAINED, batching_of, spec_of
from cann_jax.runtime.distributed import agreed
from cann_jax.runtime.placement import fetch
from cann_jax.stages.dual import read_multipliers, read_problem
from cann_jax.stages.pair_scores import read_pair_scores
from cann_jax.stages.sample import read_samples
from cann_jax.stages.score import REWARD
from cann_jax.training.checkpoints import load_weights, save_weights
from cann_jax.training.loop import Pace, fit
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceObjective
from cann_jax.training.step import TrainState, forward, start

WEIGHTS, METRICS, MODEL = "weights", "metrics.jsonl", "model"


def run_align(run: Run) -> None:
    """Leaves ``align/weights`` (what was trained, Orbax), ``metrics.jsonl``, TensorBoard events and, as
    ``align.export`` says, ``model`` (a Hugging Face folder, adapters merged) and ``adapter`` (PEFT's format).

    Raises:
        InputError: a loss that is not finite (the last good checkpoint stays), or settings that do not fit.
    """
    config = run.config
    settings = {**run.model_settings, **settings_of(config, "align"), "beta": config.dual.beta}
    inputs = run.model_identity | {name: run.manifest_of(name) for name in sources_of(config)}
    with stage(run, "align", settings, inputs) as work:
        if work is None:
            return
        decoder = optimised(run, work)
        if config.rounds == 1:
            export(run, decoder, work)


def optimised(run: Run, work: Stage, key: str = "align") -> Decoder:
    """Train as ``config.align`` says, and save the weights and the numbers.

    Args:
        run: The run, its ``align`` that of the training at hand.
        work: The stage.
        key: Section of the configuration that holds the training's settings.
    """
    data = preference_data(run)
    graph, weights, frozen = starting_point(run)
    spec = spec_of(run.config, graph, data.steps)
    data.show_pairs()
    data = with_reference(spec, weights, frozen, data, work.folder)
    state = train(run, spec, start(spec, weights), frozen, data, work.folder, key)
    save_weights(work.output(WEIGHTS), state.weights)
    work.outputs.append(METRICS)
    return nnx.merge(graph, state.weights, frozen)


def export(run: Run, decoder: Decoder, work: Stage) -> None:
    """Write what ``align.export`` asks for."""
    wanted, model = run.config.align.export, run.config.model
    if wanted in ("merged", "both"):
        export_folder(decoder, run.files.tokenizer, work.output(MODEL), model.dtype)
    if wanted in ("adapter", "both"):
        export_adapter(decoder, work.output(ADAPTER), model.path, run.files.fingerprint())


def trained_by(config: RunConfig) -> str:
    """The last stage that trains."""
    return "rounds" if config.rounds > 1 else "align"


def aligned_decoder(run: Run) -> Decoder:
    """The trained model, adapters in place."""
    graph, weights, frozen = starting_point(run)
    return nnx.merge(graph, load_weights(run.folder / trained_by(run.config) / WEIGHTS, weights), frozen)


def starting_point(run: Run):
    """(graph, trained weights, frozen weights): the reference itself, adapters adding nothing."""
    align = run.config.align
    full = align.lora is None
    decoder = run.load(align.lora, wide=full)
    return nnx.split(decoder, TRAINED[full], ...)


def sources_of(config: RunConfig) -> tuple[str, ...]:
    """The stages whose artifacts are trained on: the data differ, and nothing else does."""
    if config.align.pairs == "samples":
        return ("sample", "dual")
    return ("pairs", "pair_scores", "dual") if config.align.preference == "pseudo_reward" else ("pairs",)


def preference_data(run: Run) -> PreferenceData:
    """The batches' source, its reference log-probs still to be filled in."""
    if run.config.align.pairs == "samples":
        responses, (reward, scores) = read_samples(run), _sample_rewards(run)
    elif run.config.align.preference == "pseudo_reward":
        responses, (reward, scores) = read_pairs(run, "train").responses(), read_pair_scores(run)
    else:
        responses, reward, scores = *_human_rewards(run), {}
    unknown = np.full(responses.shape, np.nan, np.float32)
    return PreferenceData(batching_of(run.config), responses, reward, unknown, scores)


def _sample_rewards(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N, K) r_λ of the reference's samples, and what it is made of, by name."""
    scores = read_problem(run).scores
    constraints = np.asarray(scores.constraints)
    named = {name: constraints[..., index] for index, name in enumerate(run.config.constraints)}
    return np.asarray(pseudo_reward(scores, read_multipliers(run))), {
        REWARD: np.asarray(scores.reward),
        **named,
    }


def _human_rewards(run: Run) -> tuple[Responses, np.ndarray]:
    """The labelled pairs of a data set, and (n, 2) 1 for the response that people preferred."""
    dimension, pairs = run.config.align.preference, read_pairs(run, "train")
    chosen = labelled(pairs, dimension)
    if len(chosen) < len(pairs):
        without = len(pairs) - len(chosen)
        print(f"preferences: {without} of {len(pairs)} pairs have no label {dimension!r}; left out")
    return pairs.take(chosen).responses(), np.eye(2, dtype=np.float32)[getattr(pairs, dimension)[chosen]]


def with_reference(
    spec: PreferenceObjective, weights, frozen, data: PreferenceData, folder: epath.Path
) -> PreferenceData:
    """``data`` with the reference's log-probs, by the training function on its batches; shards are kept."""
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
            logps = fetch(forward(spec, weights, frozen, data.batch(step)))
            write_table(paths[step], pa.table({"logp": pa.array(logps.reshape(-1), pa.float32())}))
        reference[rows, columns] = logps
    return dataclasses.replace(data, reference=reference)


def train(
    run: Run,
    spec: PreferenceObjective,
    state: TrainState,
    frozen,
    data: PreferenceData,
    folder,
    key: str = "align",
) -> TrainState:
    align = run.config.align
    seed = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    rate = f"{key}.optimizer.learning_rate"
    pace = Pace(key, rate, data.steps, align.checkpoint_every, align.keep_checkpoints)
    return fit(spec, state, frozen, data.batch, seed, pace, folder)

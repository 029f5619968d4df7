"""The one unconstrained alignment: DPO on pairs of the reference's samples, labelled by r + ⟨λ*, g⟩."""

import dataclasses

import jax
import numpy as np
import optax
import pyarrow as pa
from etils import epath
from flax import nnx

from cann_jax.artifacts import read_table, write_table
from cann_jax.config import RunConfig
from cann_jax.core import pseudo_reward
from cann_jax.errors import InputError
from cann_jax.models.decoder import Decoder
from cann_jax.models.export import export_folder
from cann_jax.models.peft import export_adapter
from cann_jax.progress import track
from cann_jax.stages.dual import read_multipliers, read_problem
from cann_jax.stages.parts import TRAINED, spec_of
from cann_jax.stages.run import Run, Stage, settings_of, stage
from cann_jax.stages.sample import read_samples
from cann_jax.training.checkpoints import Checkpoints, load_weights, save_weights
from cann_jax.training.data import PreferenceData
from cann_jax.training.metrics import Metrics
from cann_jax.training.step import Spec, TrainState, reference_step, start, train_step

WEIGHTS, METRICS, MODEL, ADAPTER = "weights", "metrics.jsonl", "model", "adapter"


def run_align(run: Run) -> None:
    """Leaves ``align/weights`` (what was trained, Orbax), ``metrics.jsonl``, TensorBoard events and, as
    ``align.export`` says, ``model`` (a Hugging Face folder, adapters merged) and ``adapter`` (PEFT's format).

    Raises:
        InputError: a loss that is not finite (the last good checkpoint stays), or settings that do not fit.
    """
    config = run.config
    settings = {**run.model_settings, **settings_of(config, "align"), "beta": config.dual.beta}
    inputs = {**run.model_identity, "sample": run.manifest_of("sample"), "dual": run.manifest_of("dual")}
    with stage(run, "align", settings, inputs) as work:
        if work is None:
            return
        data = preference_data(run)
        graph, weights, frozen = starting_point(run)
        spec = spec_of(config, graph, data.steps)
        data.show_pairs()
        data = with_reference(spec, weights, frozen, data, work.folder)
        state = train(run, spec, start(spec, weights), frozen, data, work.folder)
        save_weights(work.output(WEIGHTS), state.weights)
        work.outputs.append(METRICS)
        if config.rounds == 1:
            export(run, nnx.merge(graph, state.weights, frozen), work)


def export(run: Run, decoder: Decoder, work: Stage) -> None:
    """Write what ``align.export`` asks for."""
    wanted, model = run.config.align.export, run.config.model
    if wanted in ("merged", "both"):
        export_folder(decoder, run.files.tokenizer, work.output(MODEL), model.dtype)
    if wanted in ("adapter", "both"):
        export_adapter(decoder, work.output(ADAPTER), model.path)


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


def preference_data(run: Run) -> PreferenceData:
    """The batches' source, its reference log-probs still to be filled in."""
    responses, problem = read_samples(run), read_problem(run)
    reward = np.asarray(pseudo_reward(problem.scores, read_multipliers(run)))
    return PreferenceData(run.config, responses, reward, np.full(responses.shape, np.nan, np.float32))


def with_reference(spec: Spec, weights, frozen, data: PreferenceData, folder: epath.Path) -> PreferenceData:
    """``data`` with the reference's log-probs, by the training function on its batches; shards are kept."""
    reference = data.reference.copy()
    for step in track(range(data.steps), "reference log-probs"):
        rows, columns = data.places(step)
        if not np.isnan(reference[rows, columns]).any():
            continue
        path = folder / f"reference-{step:05d}.parquet"
        if not path.exists():
            logps = np.asarray(reference_step(spec, weights, frozen, data.batch(step)))
            write_table(path, pa.table({"logp": pa.array(logps.reshape(-1), pa.float32())}))
        reference[rows, columns] = read_table(path).column("logp").to_numpy().reshape(columns.shape)
    return dataclasses.replace(data, reference=reference)


def train(run: Run, spec: Spec, state: TrainState, frozen, data: PreferenceData, folder) -> TrainState:
    align = run.config.align
    seed = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    with Checkpoints(folder / "checkpoints", align.keep_checkpoints, align.checkpoint_every) as checkpoints:
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first:
            print(f"align: resumed after step {first}", flush=True)
        with Metrics(folder, first) as metrics:
            for step in track(range(first, data.steps), "training", initial=first, total=data.steps):
                state, measured = train_step(spec, state, frozen, data.batch(step), seed)
                values = {name: float(value) for name, value in measured.items()}
                _check_finite((values["loss"], values["gradient_norm"]), step, checkpoints)
                metrics.write(step, values)
                checkpoints.save(state, last=step + 1 == data.steps)
        _check_finite((float(optax.tree.norm(state.weights)),), data.steps, checkpoints)
    return state


def _check_finite(values: tuple[float, ...], step: int, checkpoints: Checkpoints) -> None:
    """Look at what the weights after ``step`` steps gave.

    Raises:
        InputError: they are no good; neither is a checkpoint of them, which is deleted.
    """
    if np.isfinite(values).all():
        return
    last = checkpoints.drop(step)
    kept = "there is no checkpoint before it" if last is None else f"the checkpoint after step {last} stays"
    raise InputError(
        f"align: loss or weights are not finite at step {step}; {kept}; lower align.optimizer.learning_rate"
    )

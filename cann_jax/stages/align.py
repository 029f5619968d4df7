"""The one unconstrained alignment: DPO on pairs of the reference's samples, labelled by r + ⟨λ*, g⟩."""

import jax
import numpy as np
import pyarrow as pa
from etils import epath
from flax import nnx

from cann_jax.artifacts import read_table, write_table
from cann_jax.core import pseudo_reward
from cann_jax.errors import InputError
from cann_jax.models.decoder import Decoder
from cann_jax.models.export import export_folder
from cann_jax.models.layers import LoraParam
from cann_jax.models.load import load_decoder
from cann_jax.progress import track
from cann_jax.stages.dual import read_multipliers, read_problem
from cann_jax.stages.run import Run, settings_of, stage
from cann_jax.stages.sample import read_samples
from cann_jax.training.checkpoints import Checkpoints, load_weights, save_weights
from cann_jax.training.data import PreferenceData
from cann_jax.training.metrics import Metrics
from cann_jax.training.optimizer import optimizer
from cann_jax.training.step import Spec, TrainState, reference_step, start, train_step

WEIGHTS = "weights"


def run_align(run: Run) -> None:
    """Leaves ``align/weights`` (the trained weights, Orbax), ``metrics.jsonl``, TensorBoard events, and ``model``,
    a Hugging Face folder with the adapters merged, where ``align.export`` is set.

    Raises:
        InputError: a loss that is not finite (the last good checkpoint stays), or settings that do not fit.
    """
    config = run.config
    settings = settings_of(config, "align", "model", "seed") | {"beta": config.dual.beta}
    inputs = {**run.model_identity, "sample": run.manifest_of("sample"), "dual": run.manifest_of("dual")}
    with stage(run, "align", settings, inputs) as work:
        if work is None:
            return
        data = preference_data(run)
        spec, weights, frozen = training_parts(run, data.steps)
        data.show_pairs()
        data = reference_logps(run, spec, weights, frozen, data, work.folder)
        state = _train(run, spec, start(spec, weights), frozen, data, work.folder)
        save_weights(work.output(WEIGHTS), state.weights)
        work.outputs.append("metrics.jsonl")
        if config.align.export:
            export_folder(aligned_decoder(run), run.files.tokenizer, work.output("model"), config.model.dtype)


def preference_data(run: Run) -> PreferenceData:
    responses, problem = read_samples(run), read_problem(run)
    reward = np.asarray(pseudo_reward(problem.scores, read_multipliers(run)))
    return PreferenceData(run.config, responses, reward, np.full(responses.shape, np.nan, np.float32))


def training_parts(run: Run, steps: int):
    """(Spec, trained weights, frozen weights) at the start: the reference itself, adapters adding nothing."""
    align, dtype = run.config.align, run.config.model.dtype
    full = align.lora is None
    decoder = load_decoder(run.files, dtype, align.lora, seed=run.config.seed, wide=full)
    graph, weights, frozen = nnx.split(decoder, nnx.Param if full else LoraParam, ...)
    spec = Spec(
        graph, optimizer(align.optimizer, steps), run.config.dual.beta, align.vocabulary_chunks, align.rematerialise,
        align.accumulation,
    )  # fmt: skip
    return spec, weights, frozen


def reference_logps(run: Run, spec: Spec, weights, frozen, data: PreferenceData, folder) -> PreferenceData:
    """Fill in the reference's log-probs, by the training function on the training batches, once; shards are kept."""
    reference = data.reference.copy()
    for step in track(range(data.steps), "reference log-probs"):
        rows, columns = data.places(step)
        if not np.isnan(reference[rows, columns]).any():
            continue
        path = epath.Path(folder) / f"reference-{step:05d}.parquet"
        if not path.exists():
            logps = np.asarray(reference_step(spec, weights, frozen, data.batch(step)))
            write_table(path, pa.table({"logp": pa.array(logps.reshape(-1), pa.float32())}))
        reference[rows, columns] = read_table(path).column("logp").to_numpy().reshape(columns.shape)
    return PreferenceData(data.config, data.responses, data.reward, reference)


def _train(run: Run, spec: Spec, state: TrainState, frozen, data: PreferenceData, folder) -> TrainState:
    align = run.config.align
    seed = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    with Checkpoints(folder / "checkpoints", align.keep_checkpoints, align.checkpoint_every) as checkpoints:
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first:
            print(f"align: resumed after step {first}")
        with Metrics(folder, first) as metrics:
            for step in track(range(first, data.steps), "training", initial=first, total=data.steps):
                state, measured = train_step(spec, state, frozen, data.batch(step), seed)
                metrics.write(step, _finite(measured, step, checkpoints))
                checkpoints.save(state, last=step + 1 == data.steps)
    return state


def _finite(measured: dict, step: int, checkpoints: Checkpoints) -> dict[str, float]:
    """The step's numbers on the host.

    Raises:
        InputError: a loss or gradient that is not finite.
    """
    values = {name: float(value) for name, value in measured.items()}
    if not np.isfinite([values["loss"], values["gradient_norm"]]).all():
        last = checkpoints.manager.latest_step()
        kept = f"the checkpoint after step {last} stays" if last else "there is no checkpoint yet"
        raise InputError(f"align: loss is not finite at step {step}; {kept}; lower align.optimizer.learning_rate")
    return values


def aligned_decoder(run: Run) -> Decoder:
    """The trained model, adapters in place."""
    spec, weights, frozen = training_parts(run, run.config.align.optimizer.warmup_steps + 1)
    return nnx.merge(spec.graph, load_weights(run.folder / "align" / WEIGHTS, weights), frozen)

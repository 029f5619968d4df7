"""Reward and cost models from human preferences, as Safe-RLHF trains them (Dai et al. 2024)."""

from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.data.builders.files import Part
from cann_jax.data.builders.records import ABSENT, SAFETY_COLUMNS
from cann_jax.data.encoded_pairs import labelled
from cann_jax.files.atomic import staged, write_json, writing
from cann_jax.files.errors import InputError
from cann_jax.models.export.score_model import export_score_model
from cann_jax.models.flops import flops_a_token
from cann_jax.run.compute import Compute
from cann_jax.run.outputs import MODEL, read_pairs, write_weights
from cann_jax.run.run import ScoreModelRun
from cann_jax.run.training import Model, split
from cann_jax.runtime.distributed import is_first
from cann_jax.runtime.memory import smaller_step, within_memory
from cann_jax.runtime.placement import fetch, place
from cann_jax.runtime.sharding import partition
from cann_jax.training.batching import Batching
from cann_jax.training.calibration import (
    Reliability,
    SignAccuracy,
    accuracy,
    draw_reliability,
    reliability,
    sign_accuracy,
)
from cann_jax.training.loop import Pace, fit
from cann_jax.training.metrics import tokens_trained
from cann_jax.training.optimizer import optimizer
from cann_jax.training.score_data import ScoreData
from cann_jax.training.score_objective import ScoreObjective, ScoreWeights, learnt_differences
from cann_jax.training.step import forward, start


def run(run: ScoreModelRun) -> None:
    """Train a reward or cost model, and judge it on held-out pairs.

    Files: ``weights`` (what was trained, Orbax), ``metrics.jsonl``, ``results.json`` and ``reliability.png``
    (accuracy and calibration), and ``model``, a folder that loads as a scorer.

    Raises:
        InputError: No pair has the label, a loss that is not finite, or settings that do not fit.
    """
    config, folder = run.config, run.folder / "score_model"
    train, heldout = score_data(run, "train"), heldout_data(run)
    model = split(run.load(config.lora, wide=config.lora is None), config.lora)
    weights = initial_weights(model, run.files.config.hidden)
    objective = score_objective(config, model.graph, train.steps)
    pace = Pace(
        "score_model",
        "optimizer.learning_rate",
        train.steps,
        config.checkpoint_every,
        config.keep_checkpoints,
        flops_a_token(run.files.config, train.row._replace(predicted=0), all_weights=config.lora is None),
    )

    def remedy(times: float) -> str:
        return smaller_step("", config.accumulation, config.pairs_per_step, config.rematerialise, times)

    seed = jax.random.key(config.seed)
    with within_memory("score_model", remedy):
        state = start(objective, weights)
        weights = fit(objective, state, model.frozen, train.batch, seed, pace, folder).weights
    run.ledger.add(Compute(training_flops=pace.flops * tokens_trained(folder)))
    write_weights(run, "score_model", weights)
    _report(run, heldout, heldout_scores(objective, weights, model.frozen, heldout), folder)
    export_score_model(
        model.decoder(weights.decoder),
        fetch(weights.head),
        run.files,
        folder / MODEL,
        layout=config.export,
        objective=config.objective,
        dtype=config.model.dtype,
    )


def score_data(run: ScoreModelRun, part: Part) -> ScoreData:
    """Read the labelled pairs of one part.

    Raises:
        InputError: None has the label, or none of a cost model's says which response is safe.
    """
    config, pairs = run.config, read_pairs(run, part)
    pairs = pairs.take(labelled(pairs, config.label))
    if config.objective == "cost" and part == "train" and (pairs.safe == ABSENT).all():
        raise InputError(
            "no training pair says which response is safe, where a cost is to be below zero; use data "
            f"with {SAFETY_COLUMNS}, or objective reward with dimension safer"
        )
    batching = Batching(
        config.seed, config.epochs, config.pairs_per_step, ragged=True, accumulation=config.accumulation
    )
    return ScoreData(batching, pairs.responses, getattr(pairs, config.label), pairs.safe)


def heldout_data(run: ScoreModelRun) -> ScoreData:
    """Read the held-out pairs whose prompts no training pair has, and print how many others are left out.

    Raises:
        InputError: As ``score_data``; or all prompts are trained on.
    """
    data = score_data(run, "heldout")
    trained = {prompt.content for prompt in read_pairs(run, "train").responses.prompts.prompts}
    fresh = [n for n, each in enumerate(data.responses.prompts.prompts) if each.content not in trained]
    if not fresh:
        raise InputError(
            "no held-out pair has a prompt that is not trained on; give data whose parts share no prompts"
        )
    if left := len(data.safe) - len(fresh):
        print(
            f"score_model: {left} of {len(data.safe)} held-out pairs are about prompts trained on; left out"
        )
    return replace(
        data,
        responses=data.responses.take(fresh),
        preferred=data.preferred[fresh],
        safe=data.safe[fresh],
    )


def initial_weights(model: Model, hidden: int) -> ScoreWeights:
    """Return the weights to train; the head is zero, so that the first loss is ln 2."""
    return ScoreWeights(model.reference, place(jnp.zeros(hidden), partition(("norm",))))


def score_objective(config: ScoreModelConfig, graph: Any, steps: int) -> ScoreObjective:
    """Return what a training of ``steps`` steps minimizes, and how.

    Raises:
        InputError: The warm-up is no shorter than the run.
    """
    return ScoreObjective(
        graph=graph,
        optimizer=optimizer(config.optimizer, steps),
        kind=config.objective,
        regularization=config.regularization,
        rematerialise=config.rematerialise,
        accumulation=config.accumulation,
    )


def heldout_scores(
    objective: ScoreObjective, weights: ScoreWeights, frozen: Any, data: ScoreData
) -> np.ndarray:
    """Return the scores (n, 2) of the pairs, in their order."""
    scores = np.empty(data.responses.shape, np.float32)
    for pairs in data.in_batches(np.arange(len(scores))):
        scores[pairs] = fetch(forward(objective, weights, frozen, data.of(pairs)))
    return scores


def _report(run: ScoreModelRun, data: ScoreData, scores: np.ndarray, folder: epath.Path) -> None:
    config = run.config
    learnt = learnt_differences(scores, data.preferred, config.objective)
    prompts = [prompt.content for prompt in data.responses.prompts.prompts]
    found, curve = accuracy(learnt, config.confidence, prompts), reliability(learnt)
    values: dict[str, Any] = {"accuracy": found, "calibration": _without_nan(curve)}
    print(
        f"score_model: {found.accuracy:.1%} of {found.pairs} held-out pairs ordered correctly "
        f"({found.interval[0]:.1%} to {found.interval[1]:.1%}); calibration error {curve.error:.3f}, "
        f"log loss {curve.log_loss:.3f} (ln 2 = 0.693 is no knowledge at all)"
    )
    if config.objective == "cost":
        values["sign"] = _sign_accuracy(scores, data, config.confidence)
    write_json(folder / "results.json", values)
    path = folder / "reliability.png"
    if is_first():
        with writing(path), staged(path) as local:
            draw_reliability(local, curve)


def _sign_accuracy(scores: np.ndarray, data: ScoreData, confidence: float) -> SignAccuracy | None:
    """Return how often a cost above zero is an unsafe response, of those whose safety is known."""
    known = data.safe != ABSENT
    if not known.any():
        print("score_model: no held-out pair says which responses are safe: the cost's zero is unchecked")
        return None
    prompts = [data.responses.prompts.prompts[row].content for row in np.nonzero(known)[0]]
    found = sign_accuracy(scores[known], data.safe[known], confidence, prompts)
    print(
        f"score_model: the cost's sign is right for {found.accuracy:.1%} of {found.responses} responses; "
        f'always "{found.majority}" has {found.majority_share:.1%}'
    )
    return found


def _without_nan(curve: Reliability) -> dict[str, Any]:
    """Return the values with null for the means of an empty bin, since JSON has no NaN."""
    return {
        name: [None if np.isnan(x) else float(x) for x in value] if np.ndim(value) else value
        for name, value in asdict(curve).items()
    }

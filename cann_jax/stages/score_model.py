"""Reward and cost models from human preferences, as Safe-RLHF trains them (Dai et al. 2024)."""

from dataclasses import asdict, dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.encoded_pairs import labelled
from cann_jax.data.prepared_pairs import Part, prepare_pairs
from cann_jax.files.atomic import staged, write_json, writing
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_json
from cann_jax.models.export_scores import export_score_model
from cann_jax.models.load import ModelFiles, open_model
from cann_jax.run.run import load_model, read_pairs, stage
from cann_jax.run.training import TRAINED
from cann_jax.runtime.distributed import is_first
from cann_jax.runtime.mesh import current_mesh
from cann_jax.runtime.placement import fetch, place
from cann_jax.runtime.sharding import check_model, partition
from cann_jax.stages.pairs import pairs_settings, tokenizer_identity, write_pairs
from cann_jax.training.calibration import Accuracy, accuracy, draw_reliability, reliability
from cann_jax.training.checkpoints import save_weights
from cann_jax.training.loop import Pace, fit
from cann_jax.training.optimizer import optimizer
from cann_jax.training.score_data import ScoreData
from cann_jax.training.score_objective import ScoreObjective, ScoreWeights, learnt_differences
from cann_jax.training.step import forward, start

WEIGHTS, METRICS, RESULTS, RELIABILITY = "weights", "metrics.jsonl", "results.json", "reliability.png"
MODEL = "model"


@dataclass(frozen=True)
class ScoreRun:
    """What the stages of a score model share.

    Args:
        config: Its configuration.
    """

    config: ScoreModelConfig

    @property
    def folder(self) -> epath.Path:
        return epath.Path(self.config.run_dir) / self.config.name

    @cached_property
    def files(self) -> ModelFiles:
        model = self.config.model
        files = open_model(model.path, model.revision, model.adapter)
        check_model(files.config, current_mesh())
        return files

    @property
    def dimension(self) -> str:
        return "safer" if self.config.objective == "cost" else self.config.dimension

    def data(self, part: Part) -> ScoreData:
        """The labelled pairs of one part.

        Raises:
            InputError: none has the label, or none of a cost model's says which response is safe.
        """
        pairs = read_pairs(self, part)
        chosen, config = labelled(pairs, self.dimension), self.config
        if config.objective == "cost" and part == "train" and (pairs.safe[chosen] == ABSENT).all():
            raise InputError(
                "no training pair says which response is safe, where a cost is to be below zero; use data "
                "with is_response_0_safe and is_response_1_safe, or objective reward with dimension safer"
            )
        preferred = getattr(pairs, self.dimension)[chosen]
        return ScoreData(pairs, chosen, preferred, config.pairs_per_step, config.epochs, config.seed)


def run_score_model(run: ScoreRun) -> None:
    """Leaves ``pairs/`` (as the stage of that name) and ``score_model/``: ``weights`` (what was trained,
    Orbax), ``metrics.jsonl``, ``results.json`` and ``reliability.png`` (accuracy and calibration on held-out
    pairs), and ``model``, a folder that loads as a scorer.

    Raises:
        InputError: no pair has the label, a loss that is not finite, or settings that do not fit.
    """
    identity = make_pairs(run)
    config = run.config
    elsewhere = ("name", "run_dir", "preferences", "mesh", "distributed")
    settings = {name: value for name, value in asdict(config).items() if name not in elsewhere}
    settings["model"] = {name: settings["model"][name] for name in ("dtype", "attention")}
    with stage(run, "score_model", settings, {"model": run.files.fingerprint(), **identity}) as work:
        if work is None:
            return
        graph, weights, frozen = starting_point(run)
        train, heldout = run.data("train"), run.data("heldout")
        spec = spec_of(config, graph, train.steps)
        seed = jax.random.key(config.seed)
        pace = Pace(
            "score_model",
            "optimizer.learning_rate",
            train.steps,
            config.checkpoint_every,
            config.keep_checkpoints,
        )
        state = fit(spec, start(spec, weights), frozen, train.batch, seed, pace, work.folder)
        save_weights(work.output(WEIGHTS), state.weights)
        work.outputs.append(METRICS)
        scores = heldout_scores(spec, state.weights, frozen, heldout)
        _report(run, heldout, scores, work)
        decoder = nnx.merge(graph, state.weights.decoder, frozen)
        export_score_model(
            decoder,
            fetch(state.weights.head),
            run.files.tokenizer,
            work.output(MODEL),
            layout=config.export,
            objective=config.objective,
            dtype=config.model.dtype,
        )


def make_pairs(run: ScoreRun) -> dict[str, str]:
    """Make the tokenized pairs, or find them; returns what they are."""
    config = run.config
    prepared = prepare_pairs(config.preferences)
    identity = {
        "tokenizer": tokenizer_identity(run.files),
        "preferences": fingerprint_json(prepared.name),
    }
    with stage(run, "pairs", pairs_settings(config.preferences, config), identity) as work:
        if work is not None:
            write_pairs(prepared, run.files, config, config.preferences, work, scored=True)
    return identity | {"pairs": fingerprint_json(pairs_settings(config.preferences, config))}


def starting_point(run: ScoreRun):
    """(graph, trained weights, frozen weights); the head is zero, so that the first loss is ln 2."""
    config = run.config
    full = config.lora is None
    decoder = load_model(run.files, config.model, config.lora, config.seed, wide=full)
    graph, trained, frozen = nnx.split(decoder, TRAINED[full], ...)
    head = place(jnp.zeros(run.files.config.hidden), partition(("norm",)))
    return graph, ScoreWeights(trained, head), frozen


def spec_of(config: ScoreModelConfig, graph, steps: int) -> ScoreObjective:
    return ScoreObjective(
        graph=graph,
        optimizer=optimizer(config.optimizer, steps),
        kind=config.objective,
        regularization=config.regularization,
        rematerialise=config.rematerialise,
        accumulation=config.accumulation,
    )


def heldout_scores(spec: ScoreObjective, weights: ScoreWeights, frozen, data: ScoreData) -> np.ndarray:
    """(n, 2) scores of the pairs in ``data.chosen``, in its order."""
    scores = np.empty((len(data.chosen), 2), np.float32)
    for places in data.in_order():
        scores[places] = fetch(forward(spec, weights, frozen, data.of(places)))
    return scores


def _report(run: ScoreRun, data: ScoreData, scores: np.ndarray, work) -> None:
    config = run.config
    learnt = learnt_differences(scores, data.preferred, config.objective)
    found, curve = accuracy(learnt, config.confidence), reliability(learnt)
    values = {"accuracy": found, "calibration": _without_nan(curve)}
    print(
        f"score_model: {found.accuracy:.1%} of {found.pairs} held-out pairs ordered rightly "
        f"({found.interval[0]:.1%} to {found.interval[1]:.1%}); calibration error {curve.error:.3f}, "
        f"log loss {curve.log_loss:.3f} (ln 2 = 0.693 knows nothing)"
    )
    if config.objective == "cost":
        values["sign"] = _sign_accuracy(scores, data, config.confidence)
    write_json(work.output(RESULTS), values)
    path = work.output(RELIABILITY)
    if is_first():
        with writing(path), staged(path) as local:
            draw_reliability(local, curve)


def _sign_accuracy(scores: np.ndarray, data: ScoreData, confidence: float) -> Accuracy | None:
    """How often a cost above zero is an unsafe response, of those whose safety is known."""
    safe = data.pairs.safe[data.chosen]
    signed = np.where(safe == 1, -scores, scores)[safe >= 0]
    if not len(signed):
        print("score_model: no held-out pair says which responses are safe: the cost's zero is unchecked")
        return None
    found = accuracy(signed, confidence)
    print(f"score_model: the cost's sign is right for {found.accuracy:.1%} of {found.pairs} responses")
    return found


def _without_nan(curve) -> dict:
    """JSON has no NaN: an empty bin's means are null."""
    return {
        name: [None if np.isnan(x) else float(x) for x in value] if np.ndim(value) else value
        for name, value in asdict(curve).items()
    }

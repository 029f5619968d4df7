"""What the aligned model does on prompts it never saw, set against what was asked and predicted."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from cann_jax.config.run import EvaluateConfig, RunConfig
from cann_jax.core.prepare import constraint_means
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import write_json, write_table
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.run import Run, stage
from cann_jax.run.stages import settings_of
from cann_jax.sampling.shards import sample_shards
from cann_jax.stages.align import aligned_decoder, trained_by
from cann_jax.stages.dual import constraints_of, read_dual, read_problem
from cann_jax.stages.rounds import final_multipliers
from cann_jax.stages.sample import overlong_lines
from cann_jax.stages.score import (
    REWARD,
    load_scorers,
    reward_and_constraints,
    score_shards,
    scorers_identity,
)

REFERENCE, ALIGNED = "reference", "aligned"
HELDOUT_SEED = (
    1_000_003  # added to the run's seed, so that held-out draws are not those of the training prompts
)


@dataclass(frozen=True)
class Sampled:
    """One policy's responses to the held-out prompts.

    Args:
        responses: The responses.
        reference_logps: (N, K) log π_ref(y|x), nats.
        scores: Scores (N, K) by name.
    """

    responses: Responses
    reference_logps: np.ndarray
    scores: dict[str, np.ndarray]


def run_evaluate(run: Run) -> None:
    """Leaves ``evaluate/results.json``, ``reference.parquet`` and ``aligned.parquet`` (texts with scores)."""
    config = run.config
    settings = {**run.model_settings, **settings_of(config, "sample", "evaluate", "reward", "constraints")}
    inputs = {
        **run.model_identity,
        **run.prompts_identity(config.prompts.heldout),
        **scorers_identity(run, measured_scorers(config)),
        trained_by(config): run.manifest_of(trained_by(config)),
    }
    with stage(run, "evaluate", settings, inputs) as work:
        if work is None:
            return
        for line in overlong_lines("evaluate", run.heldout_prompts):
            print(line)
        reference = _sampled(run, run.reference, REFERENCE, work.folder)
        aligned = _sampled(run, LanguageModel.of(aligned_decoder(run), run.files), ALIGNED, work.folder)
        for name, sampled in ((REFERENCE, reference), (ALIGNED, aligned)):
            write_table(work.output(f"{name}.parquet"), _table(sampled))
        write_json(work.output("results.json"), results(run, reference, aligned))


def _sampled(run: Run, policy: LanguageModel, name: str, folder) -> Sampled:
    """Both policies draw with the same keys, so that their difference has less noise than either."""
    config = run.config
    seed = config.seed + HELDOUT_SEED
    prompts, count = run.heldout_prompts, config.evaluate.responses
    responses = sample_shards(policy, prompts, config.sample, count, seed, folder, name)
    logps = responses.logps
    if name == ALIGNED:
        logps = run.reference.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    scorers = load_scorers(run, measured_scorers(config))
    table, _ = score_shards(scorers, responses, logps, folder, config.sample.prompts_per_batch, name)
    scores = {key: table.column(key).to_numpy().reshape(responses.shape) for key in scorers}
    return Sampled(responses, logps, scores)


def measured_scorers(config: RunConfig) -> dict[str, tuple[dict, str]]:
    """The run's scorers and those that are measured only; a ``column`` has no scores of new samples."""
    every = reward_and_constraints(config)
    every |= {name: (values, f"evaluate.also.{name}") for name, values in config.evaluate.also.items()}
    return {name: scorer for name, scorer in every.items() if scorer[0]["kind"] != "column"}


def results(run: Run, reference: Sampled, aligned: Sampled) -> dict:
    """Asked, predicted, measured, interval by constraint and for the reward; the rest under ``summary``."""
    config, dual = run.config, read_dual(run)
    rows = {}
    for index, constraint in enumerate(constraints_of(config)):
        name = dual["constraints"][index]
        asked, predicted = dual["margins"][index], dual["predicted_improvement"][index]
        before, after = (_constraint_means(constraint, sampled) for sampled in (reference, aligned))
        rows[constraint.name] = {"label": name, "asked": asked, "predicted": predicted}
        rows[constraint.name] |= measure(before, after, config.evaluate, config.seed)
        rows[constraint.name]["spread"] = dual["spread"][index]
    gain = dual["predicted_reward"] - float(np.mean(np.asarray(read_problem(run).scores.reward)))
    rows[REWARD] = {"asked": None, "predicted": gain} | _plain_measure(REWARD, reference, aligned, config)
    also = {name: _plain_measure(name, reference, aligned, config) for name in config.evaluate.also}
    return {**rows, "summary": summary(reference, aligned, dual, final_multipliers(run)), "also": also}


def measure(before: np.ndarray | None, after: np.ndarray | None, config: EvaluateConfig, seed: int) -> dict:
    """Mean per-prompt improvement and its paired-bootstrap interval, prompts resampled.

    Args:
        before: (n,) mean score of each prompt under the reference; None where nothing can be measured.
        after: (n,) the same under the aligned model.
        config: Level and resamples.
        seed: Of the resampling.
    """
    if before is None or after is None:
        return {"before": None, "after": None, "measured": None, "interval": None}
    difference = (after - before).astype(np.float64)
    if np.ptp(difference) == 0:  # scipy refuses a constant; its interval is a point
        low = high = float(difference[0])
    else:
        found = stats.bootstrap(
            (difference,),
            np.mean,
            confidence_level=config.confidence,
            n_resamples=config.bootstrap,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = found.confidence_interval
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "measured": float(difference.mean()),
        "interval": [float(low), float(high)],
    }


def _plain_measure(name: str, reference: Sampled, aligned: Sampled, config: RunConfig) -> dict:
    before, after = (
        sampled.scores[name].mean(1) if name in sampled.scores else None for sampled in (reference, aligned)
    )
    return measure(before, after, config.evaluate, config.seed)


def _constraint_means(constraint, sampled: Sampled) -> np.ndarray | None:
    """(n,) per-prompt means of g; None where nothing can be measured."""
    if constraint.name not in sampled.scores:
        return None
    means = constraint_means(constraint, sampled.scores[constraint.name], sampled.responses.groups())
    return means if len(means) else None


def summary(reference: Sampled, aligned: Sampled, dual: dict, multipliers: np.ndarray) -> dict:
    """What tells whether the text stayed sound: KL, length, endings, log-prob a token under the reference."""
    return {
        "kl": float(np.mean(aligned.responses.logps - aligned.reference_logps)),
        "predicted_kl": dual["kl"],
        "multipliers": dict(zip(dual["constraints"], multipliers.tolist(), strict=True)),
        "beta": dual["beta"],
        "prompts": reference.responses.shape[0],
        "responses": reference.responses.shape[1],
        "response_tokens": [float(s.responses.lengths.mean()) for s in (reference, aligned)],
        "stopped": [float(s.responses.stopped.mean()) for s in (reference, aligned)],
        "reference_logp_per_token": [
            float(s.reference_logps.sum() / s.responses.lengths.sum()) for s in (reference, aligned)
        ],
    }


def _table(sampled: Sampled) -> pa.Table:
    """One row a response: texts, scores, log-probs."""
    responses = sampled.responses
    count = responses.shape[1]
    prompts = [prompt for prompt in responses.prompts.prompts for _ in range(count)]
    columns = {
        "prompt_id": [prompt.id for prompt in prompts],
        "group": pa.array([prompt.group for prompt in prompts], pa.string()),
        "prompt": [prompt.text for prompt in prompts],
        "response": list(range(count)) * responses.shape[0],
        "text": responses.flat_texts(),
        "tokens": responses.lengths.reshape(-1),
        "logp": responses.logps.reshape(-1),
        "reference_logp": sampled.reference_logps.reshape(-1),
    }
    return pa.table(columns | {name: values.reshape(-1) for name, values in sampled.scores.items()})

"""What the aligned model does on prompts that it never saw, compared with what was asked and predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from cann_jax.config.run import EvaluateConfig, RunConfig
from cann_jax.core.prepare import constraint_means
from cann_jax.core.problem import Constraint
from cann_jax.data.responses import Responses
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.outputs import (
    ALIGNED,
    REFERENCE,
    REWARD,
    Columns,
    DualAnswer,
    constraints_of,
    read_dual,
    read_multipliers,
    read_problem,
    write_evaluation,
)
from cann_jax.run.prompts import encoded_prompts, print_overlong
from cann_jax.run.run import Run
from cann_jax.run.scorers import Scorers, load_scorers, score_shards
from cann_jax.run.training import aligned_decoder
from cann_jax.sampling.shards import sample_shards

# Added to the run's seed, so that held-out draws are not those of the training prompts.
HELDOUT_SEED = 1_000_003


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
    scores: Columns


def run(run: Run) -> None:
    """Write ``results.json``, ``reference.parquet`` and ``aligned.parquet`` (texts with scores).

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    print_overlong("evaluate", encoded_prompts(run, "heldout"))
    scorers = load_scorers(run, run.config.measured())
    reference = _sampled(run, scorers, run.reference, REFERENCE)
    aligned = _sampled(run, scorers, LanguageModel.of(aligned_decoder(run), run.files), ALIGNED)
    tables = {REFERENCE: _table(reference), ALIGNED: _table(aligned)}
    write_evaluation(run, tables, results(run, reference, aligned))


def _sampled(run: Run, scorers: Scorers, policy: LanguageModel, name: str) -> Sampled:
    """Sample and score one policy; both use the same keys, which makes their difference less noisy."""
    config, folder = run.config, run.folder / "evaluate"
    prompts, count, seed = (
        encoded_prompts(run, "heldout"),
        config.evaluate.responses,
        config.seed + HELDOUT_SEED,
    )
    responses = sample_shards(policy, prompts, config.sample, count, seed, folder, name)
    logps = responses.logps
    if name == ALIGNED:
        logps = run.reference.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    table, _ = score_shards(scorers, responses, logps, folder, config.sample.prompts_per_batch, name)
    scores = {key: table.column(key).to_numpy().reshape(responses.shape) for key in scorers}
    return Sampled(responses, logps, scores)


def results(run: Run, reference: Sampled, aligned: Sampled) -> dict[str, Any]:
    """Return asked, predicted, measured and interval of each score, and the rest under ``summary``."""
    config, dual = run.config, read_dual(run)
    rows: dict[str, Any] = {}
    for constraint in constraints_of(config):
        name = constraint.name
        before, after = (_constraint_means(constraint, sampled) for sampled in (reference, aligned))
        rows[name] = {
            "label": dual.labels[name],
            "asked": dual.margins[name],
            "predicted": dual.predicted_improvement[name],
            **measure(before, after, config.evaluate, config.seed),
            "spread": dual.spread[name],
        }
    gain = dual.predicted_reward - float(np.mean(np.asarray(read_problem(run).scores.reward)))
    rows[REWARD] = {"asked": None, "predicted": gain} | _plain_measure(REWARD, reference, aligned, config)
    also = {name: _plain_measure(name, reference, aligned, config) for name in config.evaluate.also}
    multipliers = {
        dual.labels[name]: float(value)
        for name, value in zip(config.constraints, read_multipliers(run), strict=True)
    }
    return {**rows, "summary": summary(reference, aligned, dual, multipliers), "also": also}


def measure(
    before: np.ndarray | None, after: np.ndarray | None, config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """Return the mean per-prompt improvement and its paired-bootstrap interval, prompts resampled.

    Args:
        before: (n,) mean score of each prompt under the reference; None where nothing can be measured.
        after: (n,) the same under the aligned model.
        config: Level and number of resamples.
        seed: Seed of the resampling.
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


def _plain_measure(name: str, reference: Sampled, aligned: Sampled, config: RunConfig) -> dict[str, Any]:
    before, after = (
        sampled.scores[name].mean(1) if name in sampled.scores else None for sampled in (reference, aligned)
    )
    return measure(before, after, config.evaluate, config.seed)


def _constraint_means(constraint: Constraint, sampled: Sampled) -> np.ndarray | None:
    """Return per-prompt means (n,) of g; None where nothing can be measured."""
    if constraint.name not in sampled.scores:
        return None
    means = constraint_means(constraint, sampled.scores[constraint.name], sampled.responses.groups())
    return means if len(means) else None


def summary(
    reference: Sampled, aligned: Sampled, dual: DualAnswer, multipliers: Mapping[str, float]
) -> dict[str, Any]:
    """Return what tells whether the text stayed sound: KL, length, endings, log-prob a token under π_ref."""
    return {
        "kl": float(np.mean(aligned.responses.logps - aligned.reference_logps)),
        "predicted_kl": dual.kl,
        "multipliers": dict(multipliers),
        "beta": dual.beta,
        "prompts": reference.responses.shape[0],
        "responses": reference.responses.shape[1],
        "response_tokens": [float(s.responses.lengths.mean()) for s in (reference, aligned)],
        "stopped": [float(s.responses.stopped.mean()) for s in (reference, aligned)],
        "reference_logp_per_token": [
            float(s.reference_logps.sum() / s.responses.lengths.sum()) for s in (reference, aligned)
        ],
    }


def _table(sampled: Sampled) -> pa.Table:
    """Return one row a response: texts, scores, log-probs."""
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

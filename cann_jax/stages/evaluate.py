"""What the aligned model does on prompts that it never saw, compared with what was asked and predicted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.config.run import EvaluateConfig, RunConfig
from cann_jax.core.certificate import Certificate, Verdict, certify
from cann_jax.data.prompts import TURNS, stored_turns
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.compute import summed
from cann_jax.run.outputs import (
    ALIGNED,
    REFERENCE,
    REWARD,
    DualAnswer,
    Estimate,
    constraints_of,
    read_dual,
    read_final_scale,
    read_multipliers,
    write_evaluation,
)
from cann_jax.run.policies import (
    Draw,
    Sampled,
    difference_range,
    differences,
    sample_policy,
    sample_reference,
)
from cann_jax.run.prompts import encoded_prompts, print_overlong
from cann_jax.run.resample import resample_policy
from cann_jax.run.results import NO_STEP, asked_change
from cann_jax.run.run import Run
from cann_jax.run.scorers import Scorers, load_scorers
from cann_jax.run.trained import is_foretold, reads_multipliers, trained_words
from cann_jax.run.training import aligned_decoder

# Added to the run's seed, so that held-out draws are not those of the training prompts.
HELDOUT_SEED = 1_000_003
ANEW = 5_000_011  # added to it, for a second draw of the reference


def run(run: Run) -> None:
    """Write ``results.json``, ``reference.parquet`` and ``aligned.parquet`` (texts with scores).

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    config, prompts = run.config, encoded_prompts(run, "heldout")
    print_overlong("evaluate", prompts)
    scorers = load_scorers(run, config.measured())
    draw = Draw(prompts, config.evaluate.responses, config.seed + HELDOUT_SEED, run.folder / "evaluate")
    reference = sample_reference(run, scorers, draw, REFERENCE)
    aligned = _compared(run, scorers, draw, reference)
    tables = {REFERENCE: _table(reference), ALIGNED: _table(aligned)}
    write_evaluation(run, tables, results(run, reference, aligned))


def _compared(run: Run, scorers: Scorers, draw: Draw, reference: Sampled) -> Sampled:
    """Sample and score the policy that ``evaluate.policy`` names; a step of scale 0 leaves the reference."""
    if run.config.evaluate.policy == "resample":
        return resample_policy(run, scorers, draw, ALIGNED)
    if run.config.evaluate.policy == "reference":  # by other random numbers, to show what chance alone does
        return sample_reference(run, scorers, replace(draw, seed=draw.seed + ANEW), ALIGNED)
    if read_final_scale(run) == 0:
        print(f"evaluate: {NO_STEP}", flush=True)
        return reference
    return sample_policy(run, scorers, LanguageModel.of(aligned_decoder(run), run.files), draw, ALIGNED)


def results(run: Run, reference: Sampled, aligned: Sampled) -> dict[str, Any]:
    """Return asked, predicted, measured, interval and verdict of each score, the rest under ``summary``."""
    config, dual = run.config, read_dual(run)
    if not is_foretold(run, dual):
        dual = replace(dual, forecast=None)
    (certificates, verdict), forecast = _certified(config, reference, aligned), dual.forecast
    rows: dict[str, Any] = {}
    for constraint in constraints_of(config):
        name = constraint.name
        row = {
            "label": dual.labels[name],
            "goal": constraint.goal,
            "asked": dual.margins[name],
            **measure(reference.means(constraint), aligned.means(constraint), config.evaluate, config.seed),
            **_predicted(None if forecast is None else forecast.improvement[name]),
            "spread": dual.spread[name],
            "certificate": certificates.get(name),
        }
        rows[name] = row | {"asked": asked_change(row)}  # of a level, what these prompts lack
    gain = _predicted(None if forecast is None else forecast.reward)
    rows[REWARD] = {"asked": None} | _plain_measure(REWARD, reference, aligned, config) | gain
    also = {name: _plain_measure(name, reference, aligned, config) for name in config.evaluate.also}
    chosen = zip(config.constraints, read_multipliers(run), strict=True)
    multipliers = {dual.labels[name]: value for name, value in chosen} if reads_multipliers(config) else {}
    found = summary(reference, aligned, dual, multipliers)
    found |= {"scale": read_final_scale(run), "policy": config.evaluate.policy}
    found |= {"trained": trained_words(run)}
    compute = summed(run.ledger.before | {"evaluate": run.ledger.total})
    found |= {"verdict": str(verdict), "compute": compute}
    return {**rows, "summary": found | {"confidence": config.evaluate.confidence}, "also": also}


def _certified(
    config: RunConfig, reference: Sampled, aligned: Sampled
) -> tuple[dict[str, dict[str, Any]], Verdict]:
    """Return the certificate of each constraint that was measured, by name, and the verdict on all.

    All hold at once at the confidence; with one that could not be measured, they are not shown to.
    """
    constraints = constraints_of(config)
    found = [(each, differences(each, reference, aligned)) for each in constraints]
    measured = [(each, values) for each, values in found if values is not None]
    if not measured:
        return {}, Verdict.UNDECIDED
    certificate = certify(
        [values for _, values in measured],
        [each.target for each, _ in measured],
        config.evaluate.confidence,
        # What is the reference is known to improve nothing, where a sample of nothing but 0 decides nothing.
        ranges=[
            (0.0, 0.0) if aligned is reference and each.margin is not None else difference_range(each)
            for each, _ in measured
        ],
    )
    rows = {
        each.name: _certificate_row(certificate, index, each.target)
        for index, (each, _) in enumerate(measured)
    }
    every = len(measured) == len(constraints) or certificate.verdict == Verdict.FAILS
    return rows, certificate.verdict if every else Verdict.UNDECIDED


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
        from scipy.stats import bootstrap  # 0.6 s of imports that the other stages need not wait for

        found = bootstrap(
            (difference,),
            np.mean,
            confidence_level=config.confidence,
            n_resamples=config.bootstrap,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = found.confidence_interval
    return {
        "before": before.mean(),  # of float32, and written as such
        "after": after.mean(),
        "measured": float(difference.mean()),
        "interval": [float(low), float(high)],
    }


def _plain_measure(name: str, reference: Sampled, aligned: Sampled, config: RunConfig) -> dict[str, Any]:
    before, after = (
        sampled.scores[name].mean(1) if name in sampled.scores else None for sampled in (reference, aligned)
    )
    return measure(before, after, config.evaluate, config.seed)


def summary(
    reference: Sampled, aligned: Sampled, dual: DualAnswer, multipliers: Mapping[str, float]
) -> dict[str, Any]:
    """Return what tells whether the text stayed sound: KL, length, endings, log-prob a token under π_ref."""
    kl = _predicted(None if dual.forecast is None else dual.forecast.kl)
    return {
        "kl": np.float32(aligned.kl),
        **{f"kl_{key}": value for key, value in kl.items()},
        "multipliers": dict(multipliers),
        "reward_weight": dual.reward_weight,
        "beta": dual.beta,
        "prompts": reference.responses.shape[0],
        "responses": reference.responses.shape[1],
        "response_tokens": [s.responses.lengths.mean() for s in (reference, aligned)],
        "stopped": [s.responses.stopped.mean() for s in (reference, aligned)],
        "reference_logp_per_token": [
            np.float32(float(s.reference_logps.sum()) / int(s.responses.lengths.sum()))
            for s in (reference, aligned)
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
        "earlier": pa.array([stored_turns(prompt.earlier) for prompt in prompts], TURNS),
        "response": list(range(count)) * responses.shape[0],
        "text": responses.flat_texts(),
        "tokens": responses.lengths.reshape(-1),
        "logp": responses.logps.reshape(-1),
        "reference_logp": sampled.reference_logps.reshape(-1),
    }
    return pa.table(columns | {name: values.reshape(-1) for name, values in sampled.scores.items()})


def _predicted(estimate: Estimate | None) -> dict[str, Any]:
    """Return a forecast's number and interval under the keys of the results."""
    if estimate is None:
        return {"predicted": None, "predicted_interval": None}
    return {"predicted": estimate.value, "predicted_interval": list(estimate.interval)}


def _certificate_row(certificate: Certificate, index: int, bound: float) -> dict[str, Any]:
    """Return one constraint's verdict and bounds; None for an infinite bound, which JSON cannot hold."""
    ends = {"lower": certificate.lower[index], "upper": certificate.upper[index]}
    return {
        "verdict": str(certificate.verdicts[index]),
        "bound": bound,
        "mean": float(certificate.mean[index]),
        **{name: float(end) if np.isfinite(end) else None for name, end in ends.items()},
        "prompts": int(certificate.prompts[index]),
        "prompts_needed": certificate.prompts_needed[index],
    }

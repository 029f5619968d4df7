"""Policies sampled and scored on a set of prompts: what calibration, rounds and evaluation measure."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.core.prepare import group_values
from cann_jax.core.problem import Constraint
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.responses import Responses
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.compute import Compute
from cann_jax.run.execution import run_part
from cann_jax.run.outputs import Columns
from cann_jax.run.pipeline import SCORERS
from cann_jax.run.run import Run
from cann_jax.run.scorers import Scorers, score_block, score_shards
from cann_jax.sampling.shards import sample_prompts, sample_shards


@dataclass(frozen=True)
class Draw:
    """Where and how often a policy is sampled.

    Args:
        prompts: The prompts.
        responses: Responses a prompt.
        seed: Seed; policies drawn with one seed share random numbers, which makes differences less noisy.
        folder: Folder of the shards.
    """

    prompts: EncodedPrompts
    responses: int
    seed: int
    folder: epath.Path


@dataclass(frozen=True)
class Sampled:
    """One policy's responses.

    Args:
        responses: The responses.
        reference_logps: (N, K) log π_ref(y|x), nats.
        scores: Scores (N, K) by name.
    """

    responses: Responses
    reference_logps: np.ndarray
    scores: Columns

    @property
    def log_ratios(self) -> np.ndarray:
        """ℓ = log π/π_ref (N, K) of the responses, nats."""
        return np.asarray(self.responses.logps - self.reference_logps)

    @property
    def kl(self) -> float:
        """KL of the policy to the reference, nats a response."""
        return float(np.mean(self.log_ratios))

    def values(self, constraint: Constraint) -> np.ndarray | None:
        """Return g (n, K) on the n prompts of the constraint's group; None where it is not known."""
        if constraint.name not in self.scores:
            return None
        values = group_values(constraint, self.scores[constraint.name], self.responses.groups())
        return values if len(values) else None

    def means(self, constraint: Constraint) -> np.ndarray | None:
        """Return the mean of g (n,) over the responses to each of those prompts."""
        values = self.values(constraint)
        return None if values is None else np.asarray(values.mean(1))


# What the reference's draws depend on, of the settings that a stage reads, besides their number and seed.
DRAWN_BY = ("model", "prompts", "sample", "seed", *SCORERS, "evaluate.also")
# Stages that make another policy of the reference: its own responses and their scores depend on none of them.
LATER = ("dual", "experts", "align", "calibrate", "rounds")


def sample_reference(run: Run, scorers: Scorers, draw: Draw, name: str) -> Sampled:
    """Sample and score the reference, as a part of the stage in the draw's folder, kept whatever λ is.

    Raises:
        InputError: As ``sample_policy``.
    """
    stage, own = draw.folder.name, {"responses": draw.responses, "draw": draw.seed}
    writes = (f"{name}-*.parquet", f"scores-{name}-*.parquet")
    with run_part(run, stage, name, DRAWN_BY, own, writes, known=LATER) as made:
        found = _drawn(run, scorers, run.reference, replace(draw, folder=draw.folder / name), name)
        if made is not None:
            run.ledger.add(_generated(found))
    return found


def sample_policy(run: Run, scorers: Scorers, policy: LanguageModel, draw: Draw, name: str) -> Sampled:
    """Sample and score a policy; finished shards, whose files begin with ``name``, are kept.

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    found = _drawn(run, scorers, policy, draw, name)
    run.ledger.add(_generated(found))
    return found


def _generated(found: Sampled) -> Compute:
    return Compute(generated_tokens=int(found.responses.lengths.sum()))


def _drawn(run: Run, scorers: Scorers, policy: LanguageModel, draw: Draw, name: str) -> Sampled:
    sample = run.config.sample
    responses = sample_shards(policy, draw.prompts, sample, draw.responses, draw.seed, draw.folder, name)
    logps = _reference_logps(run, policy, responses)
    table, _ = score_shards(scorers, responses, logps, draw.folder, sample.prompts_per_batch, name)
    return _sampled(scorers, responses, logps, table)


def answer(run: Run, scorers: Scorers, policy: LanguageModel, prompts: EncodedPrompts, seed: int) -> Sampled:
    """Sample and score one response of a policy to each of a few prompts; nothing is written.

    Raises:
        InputError: As ``sample_policy``.
    """
    responses = sample_prompts(policy, prompts, run.config.sample, 1, seed)
    logps = _reference_logps(run, policy, responses)
    return _sampled(scorers, responses, logps, score_block(scorers, responses, logps))


def _reference_logps(run: Run, policy: LanguageModel, responses: Responses) -> np.ndarray:
    """Return (N, K) log π_ref(y|x), which for the reference is what it was sampled by."""
    if policy is run.reference:
        return responses.logps
    return run.reference.logps(responses.prompts.ids, responses.tokens, responses.lengths)


def _sampled(scorers: Scorers, responses: Responses, logps: np.ndarray, table: pa.Table) -> Sampled:
    scores = {key: table.column(key).to_numpy().reshape(responses.shape) for key in scorers}
    return Sampled(responses, logps, scores)


def differences(constraint: Constraint, before: Sampled, after: Sampled) -> np.ndarray | None:
    """Return (n,), by prompt, what ``constraint.target`` bounds the mean of: an improvement, or a level.

    None where the score is not known, or no prompt is in the constraint's group.
    """
    old, new = before.means(constraint), after.means(constraint)
    if old is None or new is None:
        return None
    return np.asarray(new - old if constraint.margin is not None else new, np.float64)


def difference_range(constraint: Constraint) -> tuple[float, float] | None:
    """Return the least and the largest value that ``differences`` can hold, where the constraint tells."""
    if constraint.max_unsafe is not None:
        return 0.0, 1.0
    if constraint.clip is None:
        return None
    low, high = constraint.clip
    return (low, high) if constraint.margin is None else (low - high, high - low)

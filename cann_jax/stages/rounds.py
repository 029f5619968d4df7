"""More than one shot: λ follows what the trained policy really does (CAID, Zhang et al. 2025).

A round samples the policy, moves λ_j by the margin it misses, [λ_j − η_j·(E_πθ[g_j] − E_ref[g_j] − b_j)]₊
with η_j = dual_step·β/s_j², and goes on training on the new samples under the new labels; the KL penalty and
the reference log-probs stay those of π_ref.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from cann_jax.core import pseudo_reward
from cann_jax.core.prepare import constraint_means
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_json, read_table, write_json
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.run import Run, stage
from cann_jax.run.stages import settings_of
from cann_jax.run.training import batching_of, spec_of
from cann_jax.sampling.shards import sample_shards
from cann_jax.stages.align import WEIGHTS, export, starting_point, train, with_reference
from cann_jax.stages.dual import constraints_of, problem_of, read_dual, read_multipliers
from cann_jax.stages.score import load_scorers, reward_and_constraints, score_shards, scorers_identity
from cann_jax.training.checkpoints import load_weights, save_weights
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.step import start

ROUNDS, ROUND = "rounds.json", "round.json"
SEED = 2_000_003  # times the round, added to the run's seed: no round repeats another's draws


class Model(NamedTuple):
    """A split decoder: graph, the reference's trainable weights, and those that are never trained."""

    graph: Any
    reference: Any
    frozen: Any

    def policy(self, run: Run, weights) -> LanguageModel:
        return LanguageModel.of(nnx.merge(self.graph, weights, self.frozen), run.files)


def run_rounds(run: Run) -> None:
    """Leaves a folder a round (``02``, …) with its samples, scores and metrics, ``rounds.json`` (λ before and
    after each round, improvement measured, margin), ``weights``, and what ``align.export`` asks for.

    Raises:
        InputError: a loss that is not finite, or a scorer that fails.
    """
    config = run.config
    sections = ("align", "sample", "reward", "constraints", "rounds", "online", "dual")
    inputs = {**run.model_identity, **scorers_identity(run, reward_and_constraints(config))}
    inputs |= {name: run.manifest_of(name) for name in ("score", "dual", "align")}
    with stage(run, "rounds", {**run.model_settings, **settings_of(config, *sections)}, inputs) as work:
        if work is None:
            return
        model = Model(*starting_point(run))
        weights = load_weights(run.folder / "align" / WEIGHTS, model.reference)
        multipliers, records = read_multipliers(run), []
        for number in range(2, config.rounds + 1):
            folder = work.folder / f"{number:02d}"
            weights, record = _round(run, model, weights, multipliers, number, folder)
            multipliers = np.array(record["multipliers"], np.float32)
            records.append(record)
        save_weights(work.output(WEIGHTS), weights)
        write_json(work.output(ROUNDS), records)
        export(run, nnx.merge(model.graph, weights, model.frozen), work)


def final_multipliers(run: Run) -> np.ndarray:
    """λ ``(m,)`` of the last round."""
    if run.config.rounds == 1:
        return read_multipliers(run)
    return np.array(read_json(run.folder / "rounds" / ROUNDS)[-1]["multipliers"], np.float32)


def _round(run: Run, model: Model, weights, multipliers: np.ndarray, number: int, folder: epath.Path):
    """One round; a finished one is read back. Returns the weights and the round's record."""
    if (folder / ROUND).exists():
        return load_weights(folder / WEIGHTS, model.reference), read_json(folder / ROUND)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _prompts_of_round(run, number)
    responses, scores = _on_policy(run, model.policy(run, weights), chosen, number, folder)
    record = dual_step(run, multipliers, scores, chosen, responses) | {"round": number}
    print(_said(record), flush=True)
    reward = pseudo_reward(problem_of(run.config, scores, responses.groups()).scores, record["multipliers"])
    weights = _policy_step(run, model, weights, responses, np.asarray(reward), folder)
    save_weights(folder / WEIGHTS, weights)
    write_json(folder / ROUND, record)
    return weights, record


def _prompts_of_round(run: Run, number: int) -> np.ndarray:
    """Indices of the round's prompts, in order."""
    total, wanted = len(run.train_prompts), run.config.online.prompts
    order = np.random.default_rng([run.config.seed, number]).permutation(total)
    return np.sort(order[:wanted])


def _on_policy(run: Run, policy: LanguageModel, chosen: np.ndarray, number: int, folder: epath.Path):
    """The policy's responses, and their scores ``(n, K)`` by name."""
    config = run.config
    prompts, seed = run.train_prompts.take(chosen), config.seed + SEED * number
    responses = sample_shards(
        policy, prompts, config.sample, config.online.responses, seed, folder, "responses"
    )
    reference = run.reference.logps(prompts.ids, responses.tokens, responses.lengths)
    scorers = load_scorers(run, reward_and_constraints(config))
    table, _ = score_shards(scorers, responses, reference, folder, config.sample.prompts_per_batch)
    return responses, {name: table.column(name).to_numpy().reshape(responses.shape) for name in scorers}


def dual_step(
    run: Run, multipliers: np.ndarray, scores: dict, chosen: np.ndarray, responses: Responses
) -> dict:
    """λ after the step, and what moved it, by constraint in the configuration's order."""
    dual, constraints = read_dual(run), constraints_of(run.config)
    before, groups = _reference_scores(run), responses.groups()
    improvement = [
        float(np.mean(constraint_means(c, scores[c.name], groups)))
        - float(np.mean(constraint_means(c, before[c.name][chosen], groups)))
        for c in constraints
    ]
    slack = np.array(improvement) - np.array(dual["margins"])
    rate = run.config.online.dual_step * run.config.dual.beta / np.square(dual["spread"])
    after = np.maximum(multipliers - rate * slack, 0)
    return {
        "constraints": dual["constraints"],
        "margins": dual["margins"],
        "measured_improvement": improvement,
        "multipliers_before": multipliers.tolist(),
        "multipliers": after.tolist(),
    }


def _reference_scores(run: Run) -> dict[str, np.ndarray]:
    """(N, K) raw scores of the reference's samples, by constraint."""
    table = read_table(run.folder / "score" / "scores.parquet")
    shape = (-1, run.config.sample.responses)
    return {name: table.column(name).to_numpy().reshape(shape) for name in run.config.constraints}


def _policy_step(run: Run, model: Model, weights, responses: Responses, reward: np.ndarray, folder):
    """Weights after DPO on the round's samples, begun where the last round ended."""
    unknown = np.full(responses.shape, np.nan, np.float32)
    data = PreferenceData(batching_of(run.config), responses, reward, unknown)
    spec = spec_of(run.config, model.graph, data.steps)
    data = with_reference(spec, model.reference, model.frozen, data, folder)
    # copied: the first step donates what it is given, and the policy that sampled may still be asked for
    begin = start(spec, jax.tree.map(jnp.copy, weights))
    return train(run, spec, begin, model.frozen, data, folder).weights


def _said(record: dict) -> str:
    names = ("constraints", "multipliers_before", "multipliers", "measured_improvement", "margins")
    rows = zip(*(record[name] for name in names), strict=True)
    return f"round {record['round']}: " + "; ".join(
        f"{name}: {measured:+.3f} of {margin:+.3f} asked, λ {before:.4g} → {after:.4g}"
        for name, before, after, measured, margin in rows
    )

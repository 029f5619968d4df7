"""More than one shot: λ follows what the trained policy does (CAID, Zhang et al. 2025).

A round samples the policy, moves λ_j by the margin that it misses,
[λ_j − η_j·(E_πθ[g_j] − E_ref[g_j] − b_j)]₊ with η_j = dual_step·β/s_j², and continues training on the new
samples under the new labels; the KL penalty and the reference log-probs stay those of π_ref.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cann_jax.core.preference import pseudo_reward
from cann_jax.core.prepare import group_values
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.numbers import decimals
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.execution import run_part
from cann_jax.run.manifest import commit_fingerprint
from cann_jax.run.outputs import (
    RESPONSES,
    Columns,
    DualAnswer,
    constraints_of,
    meets_aim,
    read_calibration,
    read_dual,
    read_scale,
    read_scores,
    scores_to_tilt,
    write_rounds,
    write_weights,
)
from cann_jax.run.pipeline import PIPELINE
from cann_jax.run.policies import Draw, sample_policy
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.results import number as signed
from cann_jax.run.run import Run
from cann_jax.run.scorers import Scorers, load_scorers
from cann_jax.run.training import (
    Model,
    Training,
    alignment,
    heldout_of,
    one_shot_weights,
    preference_data,
    split_decoder,
    train,
)
from cann_jax.runtime.distributed import is_first
from cann_jax.training.checkpoints import load_weights, save_weights
from cann_jax.training.health import read_health

ROUND, WEIGHTS = "round.json", "weights"
STAGE = next(stage for stage in PIPELINE if stage.name == "rounds")
# How many rounds there are changes none of them.
OF_A_ROUND = tuple(key for key in STAGE.settings if key != "rounds")
SEED = 2_000_003  # times the round, added to the run's seed: no round repeats another's draws

Multipliers = Mapping[str, float]  # by constraint


@dataclass(frozen=True)
class Round:
    """What all rounds share.

    Args:
        run: The run.
        training: How the policy is trained.
        model: The reference, split.
        scorers: The scorers.
        dual: The one shot's answer.
        reference: Scores (N, K) of the reference's samples.
    """

    run: Run
    training: Training
    model: Model
    scorers: Scorers
    dual: DualAnswer
    reference: Columns


def run(run: Run) -> None:
    """Run the rounds after the first, and write the last policy's weights.

    They start from the calibrated step where there is one; if a policy sampled there meets its aim, none is
    run.

    Files: a folder a round (``02``, …) with its samples, scores and metrics; ``rounds.json`` (λ before and
    after each round, improvement measured, margin, warnings); and ``weights``.

    Raises:
        InputError: A loss that is not finite, or a scorer that fails.
    """
    config, folder, training = run.config, run.folder / "rounds", alignment(run.config)
    model = split_decoder(run, training.settings.lora)
    scorers, dual = load_scorers(run, config.trained_on()), read_dual(run)
    shared = Round(run, training, model, scorers, dual, read_scores(run))
    weights = one_shot_weights(run, model)
    multipliers: Multipliers = dual.multipliers
    records = []
    enough = config.calibrated and meets_aim(read_calibration(run))
    if enough:
        print("rounds: the calibrated step meets its aim, so that no further round is needed")
    folders = {number: folder / f"{number:02d}" for number in range(2, 2 if enough else config.rounds + 1)}
    if is_first():
        _remove_others(folder, folders.values())
    for number, own in folders.items():
        weights, record = _round(shared, weights, multipliers, number, own)
        multipliers = record["multipliers"]
        records.append(record)
    write_weights(run, "rounds", weights)
    write_rounds(run, records)


def _remove_others(folder: epath.Path, kept: Collection[epath.Path]) -> None:
    """Remove the folders of rounds that this run does not have, which an earlier start of it had."""
    names = {each.name for each in kept}
    for child in list(folder.iterdir()):
        if any(fnmatchcase(child.name, part) for part in STAGE.parts) and child.name not in names:
            child.rmtree()


def _round(
    shared: Round, weights: Any, multipliers: Multipliers, number: int, folder: epath.Path
) -> tuple[Any, dict[str, Any]]:
    """Run one round, or read back a finished one; return the weights and the round's record."""
    before = commit_fingerprint(folder.parent / f"{number - 1:02d}")
    outputs = (ROUND, f"{WEIGHTS}/*")
    with run_part(shared.run, STAGE.name, folder.name, OF_A_ROUND, {"after": before}, outputs) as part:
        if part is not None:
            return _new_round(shared, weights, multipliers, number, folder)
    return load_weights(folder / WEIGHTS, shared.model.reference), read_json(folder / ROUND)


def _new_round(
    shared: Round, weights: Any, multipliers: Multipliers, number: int, folder: epath.Path
) -> tuple[Any, dict[str, Any]]:
    run, model = shared.run, shared.model
    chosen = _prompts_of_round(shared, number)
    policy = LanguageModel.of(model.decoder(weights), run.files)
    prompts, seed = encoded_prompts(run, "train").take(chosen), run.config.seed + SEED * number
    draw = Draw(prompts, run.config.online.responses, seed, folder)
    sampled = sample_policy(run, shared.scorers, policy, draw, RESPONSES)
    responses, scores = sampled.responses, sampled.scores
    # A step of scale 0 leaves the reference itself, whose improvement is 0 and not what two draws differ by.
    unmoved = number == 2 and read_scale(run) == 0
    before = scores if unmoved else {name: values[chosen] for name, values in shared.reference.items()}
    record = dual_step(run, shared.dual, multipliers, before, scores, responses) | {"round": number}
    print(_summary(record, shared.dual), flush=True)
    rewards = pseudo_reward(
        scores_to_tilt(run, scores, responses.groups()),
        np.array([record["multipliers"][name] for name in run.config.constraints], np.float32),
        shared.dual.reward_weight,
    )
    every = encoded_prompts(run, "train").prompts
    data = preference_data(shared.training, responses, np.asarray(rewards), among=every)
    # Copied: the first step donates what it is given, and the policy that sampled may still be asked for.
    weights = train(run, shared.training, model, data, folder, jax.tree.map(jnp.copy, weights))
    record["warnings"] = [sign.text for sign in read_health(folder).warnings]
    save_weights(folder / WEIGHTS, weights)
    write_json(folder / ROUND, record)
    return weights, record


def _prompts_of_round(shared: Round, number: int) -> np.ndarray:
    """Return the indices of the round's prompts: some to train on, and all that are kept from it.

    At least one is of each constraint's group, without which nothing would be known of it.
    """
    run, prompts = shared.run, encoded_prompts(shared.run, "train").prompts
    kept = heldout_of(shared.training, prompts)
    others = np.setdiff1d(np.arange(len(prompts)), kept)
    order = np.random.default_rng([run.config.seed, number]).permutation(others)
    asked = {each.group for each in constraints_of(run.config) if each.group is not None}
    missing = sorted(asked - {prompts[index].group for index in kept})
    first = [next(index for index in order if prompts[index].group == group) for group in missing]
    count = run.config.online.prompts
    chosen = list(dict.fromkeys([*first, *order]))[: None if count is None else max(count, len(first))]
    return np.sort(np.concatenate([chosen, kept]))


def dual_step(
    run: Run,
    dual: DualAnswer,
    multipliers: Multipliers,
    before: Columns,
    after: Columns,
    responses: Responses,
) -> dict[str, Any]:
    """Return λ after the step, and what moved it, by constraint.

    Args:
        run: The run.
        dual: The one shot's answer.
        multipliers: λ before.
        before: Scores (n, K) of the reference's responses to the round's prompts.
        after: Scores (n, K') of the policy's.
        responses: The policy's responses.
    """
    groups = responses.groups()
    improvement, moved = {}, {}
    for constraint in constraints_of(run.config):
        name = constraint.name
        means = [float(np.mean(group_values(constraint, each[name], groups))) for each in (after, before)]
        improvement[name] = means[0] - means[1]
        rate = run.config.online.dual_step * run.config.dual.beta / dual.spread[name] ** 2
        moved[name] = max(multipliers[name] - rate * (improvement[name] - dual.margins[name]), 0.0)
    return {
        "margins": dual.margins,
        "measured_improvement": improvement,
        "multipliers_before": dict(multipliers),
        "multipliers": moved,
    }


def _summary(record: Mapping[str, Any], dual: DualAnswer) -> str:
    return f"round {record['round']}: " + "; ".join(
        f"{dual.labels[name]}: {signed(measured, digits)} of {signed(asked, digits)} asked, "
        f"λ {record['multipliers_before'][name]:.4g} → {record['multipliers'][name]:.4g}"
        for name, measured in record["measured_improvement"].items()
        for asked in [record["margins"][name]]
        for digits in [decimals(asked)]
    )

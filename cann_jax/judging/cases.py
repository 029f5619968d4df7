"""What is judged: prompts, and the responses of the reference and of the aligned model to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cann_jax.config.judge import JudgeConfig
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts
from cann_jax.data.prompts import Prompt, each_once, read_prompts, turns_from
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError, named
from cann_jax.files.hashes import fingerprint_json
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.inputs import check_base
from cann_jax.run.manifest import commit_fingerprint
from cann_jax.run.outputs import POLICIES, REFERENCE, read_pairs, read_responses_with_scores
from cann_jax.run.prompts import encoded_prompts, once
from cann_jax.run.run import Run
from cann_jax.run.training import aligned_decoder
from cann_jax.runtime.shards import finished_shards, unfinished
from cann_jax.sampling.shards import read_shards, sample_shards

SEED = 6_000_011  # added to the run's, so that no draw is one of its stages'
EVALUATE = "evaluate"  # the stage whose end makes a run one that can be judged


@dataclass(frozen=True)
class Cases:
    """N prompts with K responses of each policy.

    Args:
        prompts: The prompts; the group of each is its category.
        sets: The set of each; None where they have none.
        texts: By policy, N lists of K texts.
        tokens: By policy, (N, K) lengths in tokens.
        left_out: How many prompts were not taken, by the reason.
    """

    prompts: tuple[Prompt, ...]
    sets: tuple[str | None, ...]
    texts: dict[str, list[list[str]]]
    tokens: dict[str, np.ndarray]
    left_out: dict[str, int]

    def chosen(self, name: str | None, key: str) -> list[int]:
        """Return the indices of the prompts in a set, or of all; ``key`` is the question, for messages.

        Raises:
            InputError: None is.
        """
        found = [n for n, each in enumerate(self.sets) if name in (None, each)]
        if not found:
            known = ", ".join(sorted({str(each) for each in self.sets if each is not None})) or "none"
            raise InputError(f"{key}.set is {name!r}, and no prompt is in it; the sets are {known}")
        return found


def cases_of(run: Run, config: JudgeConfig) -> Cases:
    """Return what is judged of a run: as it was evaluated, or sampled anew on the prompts of a file.

    Raises:
        InputError: The run was not evaluated, or has fewer responses than asked for; or the prompts are
            malformed, too long, or some that the run was made with; or its base model has changed since.
    """
    if commit_fingerprint(run.folder / EVALUATE) is None:
        raise InputError(f"{run.folder} has not been evaluated; start train again, and judge it then")
    return _stored(run, config) if config.prompts.path is None else _sampled(run, config, config.prompts.path)


def _stored(run: Run, config: JudgeConfig) -> Cases:
    tables = {name: read_responses_with_scores(run, name) for name in POLICIES}
    known, asked = run.config.evaluate.responses, config.prompts.responses
    if asked > known:
        raise InputError(f"prompts.responses is {asked}, and the run was evaluated on {known}; ask for fewer")
    prompts = _prompts_of(tables[REFERENCE], known)
    return Cases(
        prompts,
        (None,) * len(prompts),
        {name: _rows(each.column("text").to_pylist(), known, asked) for name, each in tables.items()},
        {
            name: each.column("tokens").to_numpy().reshape(-1, known)[:, :asked]
            for name, each in tables.items()
        },
        {},
    )


def _prompts_of(table: pa.Table, count: int) -> tuple[Prompt, ...]:
    """Return the prompts of a table of ``count`` responses to each."""
    rows = table.take(pa.array(range(0, table.num_rows, count))).to_pylist()
    return tuple(
        Prompt(row["prompt_id"], row["prompt"], row["group"], turns_from(row["earlier"])) for row in rows
    )


def _rows(texts: Sequence[str], known: int, asked: int) -> list[list[str]]:
    return [list(texts[start : start + asked]) for start in range(0, len(texts), known)]


def _sampled(run: Run, config: JudgeConfig, path: str) -> Cases:
    if not run.config.trains:
        problem = f"is set, and the run trained nothing (evaluate.policy {run.config.evaluate.policy})"
        raise InputError(f"prompts.path {problem}; leave it out, to judge the responses that it has")
    check_base(run)
    given = read_prompts(path, group=config.prompts.category)
    every = once(given, "prompts.path")
    with named("prompts.path"):
        sets = {prompt.id: prompt.group for prompt in each_once(read_prompts(path, group=config.prompts.set))}
    room = run.files.config.context - run.config.sample.max_new_tokens
    # prompts.max_tokens is what the run could afford to train on; here all that the model can read is judged.
    fitting = replace(run.config.prompts, max_tokens=max(room, 1), on_overlong="drop")
    encoded = encode_prompts(every, run.files.tokenizer, fitting, room)
    if encoded.dropped:
        print(f"judge: {encoded.dropped} prompts are too long for the model's context; left out")
    fresh = _unseen(run, config, encoded, path)
    used, repeated = len(encoded) - len(fresh), len(given) - len(every)
    found = _sample(run, config, fresh)
    return Cases(
        fresh.prompts,
        tuple(sets[prompt.id] for prompt in fresh.prompts),
        {name: each.texts for name, each in found.items()},
        {name: each.lengths for name, each in found.items()},
        {"repeated": repeated, "overlong": encoded.dropped, "used by the run": used},
    )


def _unseen(run: Run, config: JudgeConfig, prompts: EncodedPrompts, path: str) -> EncodedPrompts:
    """Return the prompts that the run was neither trained nor calibrated on."""
    used = [encoded_prompts(run, name) for name in run.config.prompts.sources() if name != "heldout"]
    if "pairs" in {stage.name for stage in run.stages}:
        used.append(read_pairs(run, "train").responses.prompts)
    contents = {prompt.content for each in used for prompt in each.prompts}
    rows = {ids.tobytes() for each in used for ids in each.ids}
    seen = [
        prompt.content in contents or ids.tobytes() in rows
        for prompt, ids in zip(prompts.prompts, prompts.ids, strict=True)
    ]
    if not any(seen):
        return prompts
    if config.prompts.on_overlap == "drop" and not all(seen):
        print(f"judge: {sum(seen)} prompts that the run was made with are left out (prompts.on_overlap)")
        return prompts.take(index for index, known in enumerate(seen) if not known)
    first = prompts.prompts[seen.index(True)]
    raise InputError(
        f"prompts.path {path}: {sum(seen)} of {len(prompts)} prompts are some that the run was trained or "
        f"calibrated on, the first of them {first.id!r}, {first.text[:60]!r}; remove them, or set "
        "prompts.on_overlap to drop, which needs others to be left"
    )


def _sample(run: Run, config: JudgeConfig, prompts: EncodedPrompts) -> dict[str, Responses]:
    """Sample both policies, by the run's own settings; what was sampled before is read."""
    seed, count = run.config.seed + SEED, config.prompts.responses
    made = {"run": commit_fingerprint(run.folder / EVALUATE), "ids": prompts.ids, "responses": count}
    folder = run.folder / "judge" / f"responses-{fingerprint_json(made)[:16]}"
    found = {}
    for name in POLICIES:
        shards = finished_shards(folder, (f"{name}-{{}}.parquet",), len(prompts))
        if not unfinished(shards, len(prompts), 1):  # no model need be loaded
            found[name] = read_shards(folder, name, run.config.sample.max_new_tokens)
            continue
        policy = run.reference if name == REFERENCE else LanguageModel.of(aligned_decoder(run), run.files)
        found[name] = sample_shards(policy, prompts, run.config.sample, count, seed, folder, name)
    return found

"""Human preferences, prepared and tokenized once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cann_jax.config.model import PREFERENCES
from cann_jax.config.preferences import PreferencesConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.data.builders.files import Part
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.encoded_pairs import encode_pairs, policy_ids, score_model_ids
from cann_jax.data.prepared_pairs import PARTS, Pair, PreparedPairs
from cann_jax.files.atomic import write_bytes_atomic, write_table
from cann_jax.files.errors import listed
from cann_jax.models.files.generation import response_end
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import ModelRun, Run

CONTRADICTIONS = "contradictory.jsonl"


def run(run: ModelRun[Any]) -> None:
    """Tokenize the preference pairs.

    Files: ``train.parquet`` and ``heldout.parquet`` (texts, ids, labels, one row a pair), and
    ``contradictory.jsonl``, those of their rows whose labels contradict each other.

    Raises:
        InputError: The data cannot be read, a pair is too long, or no prompt is left to hold out.
    """
    prepared, config, folder = run.prepared_pairs, run.preferences, run.folder / "pairs"
    _print_files(prepared, config)
    _print_counts("pairs", prepared.left_out)
    if prepared.unread:
        print(f"pairs: columns not read: {listed(prepared.unread)}")
    contradictory, tokenizer = [], run.files.tokenizer
    if isinstance(run.config, ScoreModelConfig):
        ids = score_model_ids(tokenizer, run.template)
    else:
        ids = policy_ids(tokenizer, run.template, response_end(tokenizer, run.template))
    for part in PARTS:
        every = list(prepared.parts[part])
        table, counts = encode_pairs(every, tokenizer, ids, run.files.ends, config, run.files.config.context)
        write_table(folder / f"{part}.parquet", table)
        ids_kept = set(table.column("id").to_pylist())
        pairs = [pair for pair in every if pair.prompt.id in ids_kept]
        labels = {name: sum(getattr(pair, name) != ABSENT for pair in pairs) for name in ("better", "safer")}
        known = sum(pair.harms is not None for pair in pairs)
        print(
            f"pairs: {part}: {len(pairs)} of {len(every)} pairs; {labels['better']} say which is better, "
            f"{labels['safer']} which is safer, {known} name harm categories"
        )
        _print_counts(f"pairs: {part}", counts)
        _print_contradictions(part, pairs)
        contradictory += [{"part": part, **asdict(pair)} for pair in pairs if pair.contradictory]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in contradictory)
    write_bytes_atomic(folder / CONTRADICTIONS, lines.encode())
    if contradictory:
        print(f"pairs: the contradictory ones are listed in pairs/{CONTRADICTIONS}")
    if isinstance(run, Run):
        _print_prompts(run)


def _print_files(prepared: PreparedPairs, config: PreferencesConfig) -> None:
    """Print which files are trained on and which are held out, since their names decide it."""
    for part, names in prepared.files.items():
        print(f"pairs: {part}: {_listed(names) if names else f'{config.heldout:g} of the prompts of these'}")
    if prepared.hidden:
        print(f"pairs: hidden or temporary and not read: {_listed(prepared.hidden)}")


def _print_contradictions(part: Part, pairs: Sequence[Pair]) -> None:
    """Print how many pairs have labels that contradict each other, of those that could."""
    count, of = sum(pair.contradictory for pair in pairs), sum(pair.one_is_safe for pair in pairs)
    if count:
        print(
            f"pairs: {part}: {count} contradictory labels (safer, yet the only one that is unsafe), {count} "
            f"of the {of} pairs in which one response alone is safe"
        )
    if count > of / 2:
        print(
            f"pairs: ! {part}: most labels of which response is safe contradict safer_response_id or chosen; "
            "are the columns the wrong way round?"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} ({shown})"


def _print_prompts(run: Run) -> None:
    """Print how many prompts the pairs give to measure on; raises, before any training, if there are none."""
    for name, source in run.config.prompts.sources().items():
        if source == PREFERENCES and name != "train":
            what = "to calibrate on" if name == "calibration" else "held out"
            print(f"pairs: {len(encoded_prompts(run, name))} prompts {what}")


def _print_counts(who: str, counts: Mapping[str, int]) -> None:
    for what, count in counts.items():
        if count:
            print(f"{who}: {count} {what}")

"""Human preferences, prepared and tokenized once."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.config.run import PREFERENCES
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.encoded_pairs import encode_pairs
from cann_jax.data.pairs import PARTS, PreparedPairs, prepare_pairs
from cann_jax.data.prompts import Template
from cann_jax.files.atomic import fingerprint_json, write_bytes_atomic, write_table
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.run.run import Run, Stage, stage

CONTRADICTIONS = "contradictory.jsonl"


def run_pairs(run: Run) -> None:
    """Leaves ``pairs/train.parquet`` and ``heldout.parquet``: texts, ids, labels, one row a pair; and
    ``contradictory.jsonl``, the rows whose labels contradict each other."""
    config = run.config.preferences
    assert config is not None  # the command line asks for it
    prepared = prepare_pairs(config)
    settings = pairs_settings(config, run.config.prompts)
    inputs = {"tokenizer": tokenizer_identity(run.files), "preferences": fingerprint_json(prepared.name)}
    with stage(run, "pairs", settings, inputs) as work:
        if work is not None:
            write_pairs(prepared, run.files, run.config.prompts, config, work)
    if run.config.prompts.heldout == PREFERENCES:
        print(f"pairs: {len(run.heldout_prompts)} prompts held out")  # raises before anything is trained


def pairs_settings(config: PreferencesConfig, template: Template) -> dict:
    """What decides the stage's output; where the data lie does not, what they hold is an input."""
    values = {name: value for name, value in asdict(config).items() if name not in ("path", "prepared")}
    return values | {name: getattr(template, name) for name in ("template", "next_turn", "system")}


def tokenizer_identity(files: ModelFiles) -> str:
    tokenizer = files.tokenizer
    return fingerprint_json([tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template])


def write_pairs(
    prepared: PreparedPairs,
    files: ModelFiles,
    template: Template,
    config: PreferencesConfig,
    work: Stage,
    *,
    scored=False,
) -> None:
    """Tokenize both parts and tell what they hold; ``scored`` as in ``encode_pairs``."""
    _tell("pairs", prepared.left_out)
    contradictory = []
    for part in PARTS:
        pairs = list(prepared.parts[part])
        context = files.config.max_positions
        table, counts = encode_pairs(pairs, files.tokenizer, template, config, context, scored=scored)
        write_table(work.output(f"{part}.parquet"), table)
        labels = {name: sum(getattr(pair, name) != ABSENT for pair in pairs) for name in ("better", "safer")}
        known = sum(pair.harms is not None for pair in pairs)
        print(
            f"pairs: {part}: {table.num_rows} of {len(pairs)} pairs; {labels['better']} say which is better, "
            f"{labels['safer']} which is safer, {known} name harm categories"
        )
        _tell(f"pairs: {part}", counts)
        contradictory += [{"part": part, **asdict(pair)} for pair in pairs if pair.contradictory]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in contradictory)
    write_bytes_atomic(work.output(CONTRADICTIONS), lines.encode())
    if contradictory:
        print(f"pairs: the contradictory ones are listed in {work.folder.name}/{CONTRADICTIONS}")


def _tell(who: str, counts: Mapping[str, int]) -> None:
    for what, count in counts.items():
        if count:
            print(f"{who}: {count} {what}")

"""Fingerprints of what a run reads from outside: models, prompts, preference data, and what scorers bring."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from cann_jax.config.model import PREFERENCES, PromptSet
from cann_jax.config.scorers import ScorerConfig
from cann_jax.data.prompts import prompts_file
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_json
from cann_jax.run.manifest import committed
from cann_jax.run.pipeline import Stage
from cann_jax.run.run import ModelRun, Run
from cann_jax.run.scorers import identity

Finder = Callable[[ModelRun[Any]], dict[str, str]]


def _model(run: ModelRun[Any]) -> dict[str, str]:
    template = fingerprint_json(run.files.tokenizer.chat_template)
    return {"model": run.files.fingerprint(), "chat_template": template}


def _tokenizer(run: ModelRun[Any]) -> dict[str, str]:
    tokenizer = run.files.tokenizer
    found = fingerprint_json([tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, run.files.ends])
    return {"tokenizer": found}


def _preferences(run: ModelRun[Any]) -> dict[str, str]:
    return {"preferences": fingerprint_json(run.prepared_pairs.name)}


def _prompts(name: PromptSet) -> Finder:
    def found(run: ModelRun[Any]) -> dict[str, str]:
        path = run.config.prompts.sources()[name]
        if path == PREFERENCES:
            return {}
        return {f"prompts.{name}": hashlib.sha256(prompts_file(path)).hexdigest()}

    return found


def _scorers(name: str) -> Finder:
    def found(run: ModelRun[Any]) -> dict[str, str]:
        scorers: Mapping[str, tuple[str, ScorerConfig]] = getattr(run.config, name)()
        every = (
            _once(run, key, partial(identity, key=key, scorer=scorer)) for key, scorer in scorers.values()
        )
        return {part: value for each in every for part, value in each.items()}

    return found


def _once(run: ModelRun[Any], name: str, find: Finder) -> dict[str, str]:
    """Return what ``find`` finds at the first call with this name: a model is many GB.

    Later hashes could not stand for the run: what it has read by then, it does not read again.
    """
    if name not in run.fingerprints:
        run.fingerprints[name] = find(run)
    return run.fingerprints[name]


# By the name under which ``Stage.files`` asks for it.
INPUTS: dict[str, Finder] = {
    "model": _model,
    "tokenizer": _tokenizer,
    "preferences": _preferences,
    "prompts.train": _prompts("train"),
    "prompts.calibration": _prompts("calibration"),
    "prompts.heldout": _prompts("heldout"),
    "scorers": _scorers("trained_on"),
    "measured scorers": _scorers("measured"),
}


def fingerprints(run: ModelRun[Any], name: str) -> dict[str, str]:
    """Return the fingerprints of one of ``INPUTS``, as they were at the first call of the run."""
    return _once(run, name, INPUTS[name])


def take_fingerprints(run: ModelRun[Any], stages: Iterable[Stage]) -> None:
    """Take the fingerprints of all files from outside that these stages read, before the first of them runs.

    A file may be edited while a run is under way. A hash that is older than what was read makes stages again;
    one that is newer certifies what nobody has measured: held-out prompts were read at the start and hashed
    hours later, and the results on the old ones were "done already" for the new.
    """
    for name in dict.fromkeys(name for stage in stages for name in stage.files):
        fingerprints(run, name)


def check_base(run: Run) -> None:
    """Raise InputError if the model that a run names is not, or no longer, the one that was trained from."""
    then = committed(run.folder / ("experts" if run.config.align.dial else "align"))["inputs"]
    for name, now in fingerprints(run, "model").items():
        if then.get(name) != now:
            raise InputError(
                f"{run.folder}: {run.config.model.path} has another {name.replace('_', ' ')} than the one "
                "that was trained from; give its files back, or start train again"
            )

"""Fingerprints of what a run reads from outside: models, prompts, preference data, and what scorers bring."""

from collections.abc import Callable, Mapping
from typing import Any

from cann_jax.config.model import PREFERENCES, PromptSet
from cann_jax.config.scorers import ScorerConfig
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.run.manifest import committed
from cann_jax.run.run import ModelRun, Run
from cann_jax.run.scorers import identity


def _model(run: ModelRun[Any]) -> dict[str, str]:
    template = fingerprint_json(run.files.tokenizer.chat_template)
    return {"model": run.files.fingerprint(), "chat_template": template}


def _tokenizer(run: ModelRun[Any]) -> dict[str, str]:
    tokenizer = run.files.tokenizer
    found = fingerprint_json([tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, run.files.ends])
    return {"tokenizer": found}


def _preferences(run: ModelRun[Any]) -> dict[str, str]:
    return {"preferences": fingerprint_json(run.prepared_pairs.name)}


def _prompts(name: PromptSet) -> Callable[[ModelRun[Any]], dict[str, str]]:
    def found(run: ModelRun[Any]) -> dict[str, str]:
        path = run.config.prompts.sources()[name]
        return {} if path == PREFERENCES else {f"prompts.{name}": fingerprint_file(path)}

    return found


def _scorers(name: str) -> Callable[[ModelRun[Any]], dict[str, str]]:
    def found(run: ModelRun[Any]) -> dict[str, str]:
        scorers: Mapping[str, tuple[str, ScorerConfig]] = getattr(run.config, name)()
        return {k: v for key, scorer in scorers.values() for k, v in identity(run, key, scorer).items()}

    return found


# By the name under which ``Stage.files`` asks for it.
INPUTS: dict[str, Callable[[ModelRun[Any]], dict[str, str]]] = {
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
    """Return the fingerprints of one of ``INPUTS``; each is computed once a run, for a model is many GB."""
    if name not in run.fingerprints:
        run.fingerprints[name] = INPUTS[name](run)
    return run.fingerprints[name]


def check_base(run: Run) -> None:
    """Raise InputError if the model that a run names is not, or no longer, the one that was trained from."""
    then = committed(run.folder / ("experts" if run.config.align.dial else "align"))["inputs"]
    for name, now in fingerprints(run, "model").items():
        if then.get(name) != now:
            raise InputError(
                f"{run.folder}: {run.config.model.path} has another {name.replace('_', ' ')} than the one "
                "that was trained from; give its files back, or start train again"
            )

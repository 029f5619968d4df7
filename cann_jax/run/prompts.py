"""The prompts of a run, encoded: from its files, or from the preference pairs."""

from collections.abc import Iterable, Sequence

from cann_jax.config.model import PREFERENCES, PromptSet
from cann_jax.data.builders.files import Part
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts
from cann_jax.data.prompts import Prompt, distinct_prompts, each_once, read_prompts
from cann_jax.files.errors import InputError, named
from cann_jax.run.inputs import fingerprints
from cann_jax.run.outputs import read_pairs
from cann_jax.run.run import Run


def encoded_prompts(run: Run, name: PromptSet) -> EncodedPrompts:
    """Return one of the run's sets of prompts, and print what was left out; read once a run.

    Raises:
        InputError: They are missing or malformed, none fits, or no held-out pair has a prompt of its own.
    """
    if name not in run.encoded:
        config = run.config
        source = config.prompts.sources()[name]
        fingerprints(run, f"prompts.{name}")  # no newer than what is read: see ``take_fingerprints``
        prompts = (
            _prompts_of_pairs(run, name)
            if source == PREFERENCES
            else once(read_prompts(source, config.prompts.limit), f"prompts.{name}")
        )
        run.encoded[name] = encoded(run, prompts)
    return run.encoded[name]


def once(prompts: Sequence[Prompt], key: str) -> list[Prompt]:
    """Return each request once, and print how many of the file at ``key`` repeat another."""
    with named(key):
        found = each_once(prompts)
    if repeated := len(prompts) - len(found):
        print(f"{key}: {repeated} of {len(prompts)} repeat another one; each counts once")
    return found


def encoded(run: Run, prompts: Iterable[Prompt]) -> EncodedPrompts:
    """Return prompts as the run's own are encoded.

    Raises:
        InputError: As ``encode_prompts``.
    """
    room = run.files.config.context - run.config.sample.max_new_tokens
    return encode_prompts(prompts, run.files.tokenizer, run.config.prompts, room)


def print_overlong(stage: str, prompts: EncodedPrompts) -> None:
    """Print how many prompts were left out or cut; nothing where all fit."""
    for count, what in ((prompts.dropped, "dropped"), (prompts.truncated, "cut on the left")):
        if count:
            print(f"{stage}: {count} overlong prompts {what} (prompts.on_overlong)")


def _prompts_of_pairs(run: Run, name: PromptSet) -> list[Prompt]:
    """Return distinct prompts of the stage ``pairs``: its training pairs', or fresh held-out ones."""
    found = _distinct(run, "train") if name == "train" else _fresh(run, name, _distinct(run, "heldout"))
    return found[: run.config.prompts.limit]


def _distinct(run: Run, part: Part) -> list[Prompt]:
    return distinct_prompts(read_pairs(run, part).responses.prompts.prompts, run.config.seed)


def _fresh(run: Run, name: PromptSet, prompts: list[Prompt]) -> list[Prompt]:
    """Return the prompts that nothing else uses: half of them to calibrate on, the rest to hold out."""
    earlier, used = [read_pairs(run, "train").responses.prompts], "trained on"
    if name == "heldout" and "calibration" in run.config.prompts.sources():
        earlier.append(encoded_prompts(run, "calibration"))
        used += " or calibrated on"
    seen = {prompt.content for each in earlier for prompt in each.prompts}
    fresh = [prompt for prompt in prompts if prompt.content not in seen]
    if len(fresh) < len(prompts):
        print(f"prompts.{name}: {len(prompts) - len(fresh)} of {len(prompts)} are {used} too; left out")
    if not fresh:
        raise InputError(
            f"prompts.{name} is 'preferences', and no held-out pair has a prompt of its own; give a file"
        )
    return fresh[::2] if name == "calibration" else fresh

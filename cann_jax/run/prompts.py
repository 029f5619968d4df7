"""The prompts of a run, encoded: from its files, or from the preference pairs."""

from cann_jax.config.model import PREFERENCES
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts
from cann_jax.data.prepared_pairs import Part
from cann_jax.data.prompts import Prompt, distinct_prompts, read_prompts
from cann_jax.files.errors import InputError
from cann_jax.run.outputs import read_pairs
from cann_jax.run.run import Run


def encoded_prompts(run: Run, part: Part) -> EncodedPrompts:
    """Return the training or the held-out prompts, and print what was dropped or cut; read once a run.

    Raises:
        InputError: They are missing or malformed, none fits, or no held-out pair has a prompt of its own.
    """
    if part not in run.encoded:
        config = run.config
        path = config.prompts.train if part == "train" else config.prompts.heldout
        room = run.files.config.max_positions - config.sample.max_new_tokens
        prompts = (
            _prompts_of_pairs(run, part) if path == PREFERENCES else read_prompts(path, config.prompts.limit)
        )
        run.encoded[part] = encode_prompts(prompts, run.files.tokenizer, config.prompts, room)
    return run.encoded[part]


def print_overlong(stage: str, prompts: EncodedPrompts) -> None:
    """Print how many prompts were left out or cut; nothing where all fit."""
    for count, what in ((prompts.dropped, "dropped"), (prompts.truncated, "cut on the left")):
        if count:
            print(f"{stage}: {count} overlong prompts {what} (prompts.on_overlong)")


def _prompts_of_pairs(run: Run, part: Part) -> list[Prompt]:
    """Return the distinct prompts of the stage ``pairs``, without held-out ones that are trained on too."""
    seen = set()
    if part == "heldout":
        seen = {prompt.dialogue for prompt in read_pairs(run, "train").responses.prompts.prompts}
    every = distinct_prompts(read_pairs(run, part).responses.prompts.prompts, run.config.seed)
    fresh = [prompt for prompt in every if prompt.dialogue not in seen]
    if len(fresh) < len(every):
        print(f"prompts.{part}: {len(every) - len(fresh)} of {len(every)} are trained on too; left out")
    if not fresh:
        raise InputError(
            f"prompts.{part} is 'preferences', and no held-out pair has a prompt of its own; give a file"
        )
    return fresh[: run.config.prompts.limit]

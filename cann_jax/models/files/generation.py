"""What a model's files say of generation: which tokens end a response, and how it was meant to be sampled."""

import contextlib
from collections.abc import Mapping
from typing import Any

from cann_jax.data.templates import Template, end_of_turn
from cann_jax.files.errors import InputError, shown

GENERATION = "generation_config.json"
# Its settings that make another policy of the model, and the values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0,),
    "top_h": (),
    "min_p": (0,),
    "typical_p": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "watermarking_config": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "force_words_ids": (),
    "stop_strings": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1,),
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": (),
    "exponential_decay_length_penalty": (),
}


def declared_ends(value: Any, vocabulary: int, source: str) -> list[int]:
    """Return the ids in an ``eos_token_id``, which is a number, a list of them, or null.

    Raises:
        InputError: One is no id of the vocabulary.
    """
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < vocabulary:
            raise InputError(
                f"{source}: eos_token_id is {shown(value)}, and the model has the ids 0 to {vocabulary - 1}; "
                "use the file that belongs to the weights"
            )
    return ids


def end_tokens(declared: list[int], tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end a response: those declared, the tokenizer's, and the chat template's own."""
    ends = {*declared, tokenizer.eos_token_id}
    # A template for other things than chats, as guard models have, may refuse or leave out an answer.
    with contextlib.suppress(InputError):
        ends.add(end_of_turn(tokenizer))
    return tuple(sorted(ends - {None}))


def response_end(tokenizer: Any, template: Template) -> int:
    """Return the end token behind the responses that a policy learns: the one that it is to say itself.

    Raises:
        InputError: The tokenizer has none.
    """
    end = end_of_turn(tokenizer) if template.template == "chat" else None
    end = tokenizer.eos_token_id if end is None else end
    if end is None:
        raise InputError("the tokenizer has no end token, which responses must end with; use another model")
    return int(end)


def not_applied(generation: Mapping[str, Any]) -> list[str]:
    """Return a line on what of a ``generation_config.json`` is not applied; none where all is."""
    listed = ", ".join(f"{name} {value}" for name, value in unused_settings(generation).items())
    line = (
        f"model: {GENERATION} asks for {listed}, which is not applied: it samples another policy than the "
        "reference that alignment starts from"
    )
    return [line] if listed else []


def unused_settings(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a ``generation_config.json`` that would sample another policy than the model."""
    given = {name: generation.get(name) for name in _NEUTRAL}
    return {
        name: value
        for name, value in given.items()
        if value is not None and value not in ([], {}) and value not in _NEUTRAL[name]
    }

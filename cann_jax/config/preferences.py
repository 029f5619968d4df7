"""The part of the schema that describes preference data; ``cann_jax.config`` holds the whole."""

from dataclasses import dataclass
from typing import Literal

from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class PreferencesConfig:
    """Pairs of responses that people compared.

    Args:
        dataset: Whose columns the data have; ``local`` takes any of them, and ``prompt/chosen/rejected``.
        on_overlong: What happens to a pair longer than ``max_tokens``.
        path: A local copy, a file or a folder (.parquet, .jsonl, .jsonl.gz); null downloads from the Hub.
        subset: Only files below a folder of this name, for example ``harmless-base``; null takes all.
        revision: Branch, tag or commit on the Hub.
        chosen_is: The dimension that ``chosen`` is preferred on; null asks hh-rlhf's folder names.
        heldout: Share of prompts held out where the data have no test files.
        max_tokens: Longest prompt with its longer response, template and end token included.
        limit: Use only the first this many pairs of each part.
        prepared: Where prepared data lie; null is TFDS's own folder.
    """

    dataset: Literal["pku_safe_rlhf_30k", "pku_safe_rlhf", "hh_rlhf", "local"]
    on_overlong: Literal["error", "drop", "truncate_prompt_left"]
    path: str | None = None
    subset: str | None = None
    revision: str = "main"
    chosen_is: Literal["better", "safer"] | None = None
    heldout: float = 0.1
    max_tokens: int = 512
    limit: int | None = None
    prepared: str | None = None


def check_preferences(config: PreferencesConfig) -> None:
    """Raise InputError, with key and mend, where values that fit their types cannot work together."""
    if config.dataset == "local" and config.path is None:
        raise InputError("preferences.path is missing; preferences.dataset 'local' needs a file or a folder")
    if not 0 < config.heldout < 1:
        raise InputError(f"preferences.heldout is {config.heldout}; use a share between 0 and 1")
    for name in ("max_tokens", "limit"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"preferences.{name} is {value}; it must be greater than 0")

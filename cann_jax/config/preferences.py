"""Human preference data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cann_jax.config.ranges import PositiveInt, Probability, Text

Dimension = Literal["better", "safer"]


@dataclass(frozen=True)
class PreferencesConfig:
    """Pairs of responses that people compared.

    Args:
        dataset: Whose columns the data have; ``local`` takes any of them, and ``prompt/chosen/rejected``.
        on_overlong: What happens to a pair longer than ``max_tokens``.
        path: A local copy, a file or a folder (.parquet, .jsonl, .jsonl.gz); null downloads from the Hub.
        subset: Only files below a folder of this name, for example ``harmless-base``; null takes all.
        revision: Branch, tag or commit on the Hub.
        chosen_is: The dimension that ``chosen`` is preferred on; null reads it from hh-rlhf's folder names.
        on_bad_row: What happens to a row that cannot be used: ``error`` names it, ``drop`` leaves out all of
            them, counted by reason.
        heldout: Share of prompts held out where the data have no test files.
        max_tokens: Longest prompt with its longer response, template and end token included.
        limit: Use only the first this many pairs of each part.
        prepared: Folder for the prepared data; null is TFDS's own folder.
    """

    dataset: Literal["pku_safe_rlhf_30k", "pku_safe_rlhf", "hh_rlhf", "local"]
    on_overlong: Literal["error", "drop", "truncate_prompt_left"]
    path: str | None = None
    subset: str | None = None
    revision: Text = "main"
    chosen_is: Dimension | None = None
    on_bad_row: Literal["error", "drop"] = "error"
    heldout: Probability = 0.1
    max_tokens: PositiveInt = 512
    limit: PositiveInt | None = None
    prepared: str | None = None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if self.dataset == "local" and self.path is None:
            yield "path", "is missing; preferences.dataset 'local' needs a file or a folder"

"""The reference model and its prompts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cann_jax.config.ranges import (
    SYSTEM_UNREAD,
    TEMPLATE_DATE,
    Date,
    NextTurn,
    PositiveInt,
    Template,
    Text,
)

PREFERENCES = "preferences"  # instead of a file: the prompts of the preference pairs

PromptSet = Literal["train", "calibration", "heldout"]  # by the setting that says where it lies
PROMPT_SETS: tuple[PromptSet, ...] = ("train", "calibration", "heldout")

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The reference model, from which alignment starts.

    Args:
        path: A Hugging Face folder, a .gguf file, ``embedded:smollm2-135m-instruct``, or ``owner/name`` on
            the Hub.
        dtype: Dtype of matrix products; log-probs, norms and sums are float32 always.
        revision: Branch, tag or commit of a model on the Hub; null for its default branch.
        adapter: Folder of a LoRA adapter in PEFT's format, merged into the model as it is read.
        attention: Kernel of attention over whole sequences; ``auto`` is splash on a TPU and cudnn on a
            GPU where dtype and model let them serve, else xla.
    """

    path: Text
    dtype: Dtype = "float32"
    revision: str | None = None
    adapter: str | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"


@dataclass(frozen=True)
class PromptsConfig:
    """Prompts: JSON lines with a ``prompt`` (and optionally ``id`` and ``group``) each.

    Args:
        train: File of prompts that are sampled, scored and trained on; ``preferences`` takes the distinct
            prompts of the preference pairs, in an order drawn from the seed.
        heldout: File of prompts that only the evaluation sees; ``preferences`` takes those of the held-out
            pairs that no training pair and no calibration prompt has.
        calibration: File of prompts on which the trained step is scaled; ``preferences`` takes half of those
            of the held-out pairs. Null leaves the step as it was trained.
        on_overlong: What happens to a prompt longer than ``max_tokens``.
        max_tokens: Longest prompt, template included, in tokens.
        template: ``chat`` for the tokenizer's chat template, or a text that holds ``{prompt}``.
        next_turn: What follows ``template`` for a further turn of a dialogue: a text with ``{reply}`` and
            ``{prompt}``; null refuses dialogues, but for the chat template, which writes them itself.
        system: System message of the chat template; null leaves the template's default.
        date: The day that the chat template takes for today, in quotation marks; templates that write a date
            would else give other ids every day.
        limit: Use only the first this many prompts of each.
    """

    train: str
    heldout: str
    on_overlong: Literal["error", "drop", "truncate_prompt_left"]
    calibration: str | None = None
    max_tokens: PositiveInt = 512
    template: Template = "chat"
    next_turn: NextTurn | None = None
    system: str | None = None
    date: Date = TEMPLATE_DATE
    limit: PositiveInt | None = None

    def sources(self) -> dict[PromptSet, str]:
        """Return the file, or ``preferences``, of each set of prompts that there is."""
        found = {name: getattr(self, name) for name in PROMPT_SETS}
        return {name: source for name, source in found.items() if source is not None}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if self.system is not None and self.template != "chat":
            yield "system", SYSTEM_UNREAD
        if self.calibration == PREFERENCES and self.heldout != PREFERENCES:
            yield "calibration", "is 'preferences'; set prompts.heldout to preferences too, or give a file"

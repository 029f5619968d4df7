"""PeCAN's scores: how much likelier a pre-aligned model finds a response than the reference does."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cann_jax.config.run import PromptsConfig
from cann_jax.config.scorers import ImplicitScorer, Prealigned
from cann_jax.data.prompts import Prompt, encode_prompts
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.attach import attach_adapter, open_attachable
from cann_jax.models.adapters.peft import Adapter
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers.base import Scored

SYSTEM_TOKENS = 512  # room for the system message beyond prompts.max_tokens
SOURCES = ("system_prompt", "preference", "adapter", "model")


@dataclass(frozen=True)
class Implicit:
    """β·(log π_other(y|x) − log π_ref(y|x)), nats; higher is better (paper, algorithm 2, step 2).

    Args:
        config: β and where π_other comes from.
        model: π_other, or π_ref where a system prompt alone makes π_other of it.
        prompts: Template and limits with π_other's system message; None where it reads the run's own prompts.
    """

    config: ImplicitScorer
    model: LanguageModel
    prompts: PromptsConfig | None

    @classmethod
    def load(
        cls, config: ImplicitScorer, key: str, reference: LanguageModel, prompts: PromptsConfig
    ) -> "Implicit":
        """Raises InputError as ``checked``."""
        match checked(config, key, reference.files, prompts):
            case Adapter() as adapter:
                return cls(config, attach_adapter(reference, adapter), None)
            case ModelFiles() as files:
                decoder = load_decoder(files, str(reference.decoder.dtype))
                return cls(config, LanguageModel.of(decoder, files), None)
            case PromptsConfig() as prompted:
                return cls(config, reference, prompted)
            case _:
                raise AssertionError(f"{key}: the run names the adapter of a preference before it loads it")

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        ids = responses.prompts.ids
        if self.prompts is not None:
            ids = self._prompt_ids(self.prompts, responses.prompts.prompts, responses.tokens.shape[-1])
        other = self.model.logps(ids, responses.tokens, responses.lengths)
        return Scored((self.config.beta * (other - reference_logps)).astype(np.float32))

    def _prompt_ids(
        self, config: PromptsConfig, prompts: tuple[Prompt, ...], response: int
    ) -> tuple[np.ndarray, ...]:
        room = self.model.config.max_positions - response
        return encode_prompts(prompts, self.model.tokenizer, config, room).ids


def checked(
    config: ImplicitScorer, key: str, reference: ModelFiles, prompts: PromptsConfig
) -> Adapter | ModelFiles | PromptsConfig | None:
    """What makes π_other: an adapter, a model of its own, or prompts with a system message.

    No weight is read. None where the run is still to pre-align it.

    Raises:
        InputError: β is not above 0, there is not exactly one source, or it does not fit the reference.
    """
    if not config.beta > 0:
        raise InputError(f"{key}.beta is {config.beta}; it must be greater than 0")
    source, where = config.prealigned, f"{key}.prealigned"
    given = [name for name in SOURCES if getattr(source, name) is not None]
    if len(given) != 1:
        raise InputError(
            f"{where} has {' and '.join(given) or 'no source'}; give one of {', '.join(SOURCES)}"
        )
    if source.revision is not None and source.model is None:
        raise InputError(
            f"{where}.revision belongs to a model on the Hub, and no model is given; leave it out"
        )
    if source.preference is not None:
        return None
    if source.adapter is not None:
        return open_attachable(reference, Path(source.adapter))
    if source.model is not None:
        return _other_model(source, where, reference)
    if prompts.template != "chat":
        raise InputError(f"{where}.system_prompt needs prompts.template 'chat', which holds system messages")
    return _prompts_of(source.system_prompt, prompts)


def _other_model(source: Prealigned, key: str, reference: ModelFiles) -> ModelFiles:
    files = open_model(source.model, source.revision)
    if files.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise InputError(
            f"{key}.model {source.model!r} has another vocabulary than the reference, so that its log-probs "
            "are of other tokens; use a model of the same tokenizer"
        )
    return files


def _prompts_of(system_prompt: str, prompts: PromptsConfig) -> PromptsConfig:
    """The run's prompts as π_other sees them; none may be dropped, for its responses are there already."""
    cut = "truncate_prompt_left" if prompts.on_overlong == "truncate_prompt_left" else "error"
    longer = prompts.max_tokens + SYSTEM_TOKENS
    return replace(prompts, system=system_prompt, on_overlong=cut, max_tokens=longer)

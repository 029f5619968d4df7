"""PeCAN's scores: how much more likely a pre-aligned model finds a response than the reference does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cann_jax.config.model import PromptsConfig
from cann_jax.config.preferences import Dimension
from cann_jax.config.ranges import Positive
from cann_jax.config.scorers import ToPrealign
from cann_jax.data.encoded_prompts import encode_prompts
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.scorers.base import Context, Scored, Scorer, ScorerKind, check_lengths

if TYPE_CHECKING:
    from cann_jax.models.adapters.peft import Adapter
    from cann_jax.models.files.model_files import ModelFiles
    from cann_jax.models.language_model import LanguageModel

SYSTEM_TOKENS = 512  # room for the system message beyond prompts.max_tokens


@dataclass(frozen=True)
class Prealigned:
    """A model that leans to one side; exactly one of the four sources.

    Args:
        system_prompt: The reference itself under this system message; needs no training.
        preference: The reference with an adapter that the run trains by DPO on this label of ``preferences``.
        adapter: The reference with this adapter: a folder in PEFT's format.
        model: Another model of the same tokenizer, as in ``model.path``.
        revision: Of a model on the Hub.
    """

    system_prompt: str | None = None
    preference: Dimension | None = None
    adapter: str | None = None
    model: str | None = None
    revision: str | None = None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        sources = ("system_prompt", "preference", "adapter", "model")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            yield "", f"has {' and '.join(given) or 'no source'}; give one of {', '.join(sources)}"
        if self.revision is not None and self.model is None:
            yield "revision", "belongs to a model on the Hub, and no model is given; leave it out"


@dataclass(frozen=True, kw_only=True)
class ImplicitScorer(ScorerKind):
    """β·(log π_other(y|x) − log π_ref(y|x)), nats, of a pre-aligned π_other (PeCAN); higher is better.

    Args:
        beta: β with which π_other was, or is to be, pre-aligned; it fixes the score's unit.
        prealigned: Where π_other comes from.
    """

    kind: Literal["implicit"] = "implicit"
    beta: Positive
    prealigned: Prealigned

    @property
    def to_prealign(self) -> ToPrealign | None:
        """Return the model that the run pre-aligns for this scorer, if it does."""
        preference = self.prealigned.preference
        return None if preference is None else ToPrealign(preference, self.beta)

    def load(self, context: Context) -> "Implicit":
        from cann_jax.models.adapters.attach import attach_adapter
        from cann_jax.models.adapters.peft import Adapter
        from cann_jax.models.files.load import load_decoder
        from cann_jax.models.files.model_files import ModelFiles
        from cann_jax.models.language_model import LanguageModel

        reference = context.reference()
        match self._source(context, reference.files, self._adapter(context)):
            case Adapter() as adapter:
                return Implicit(self, attach_adapter(reference, adapter), None, context.key)
            case ModelFiles() as files:
                decoder = load_decoder(files, str(reference.decoder.dtype))
                return Implicit(self, LanguageModel.of(decoder, files), None, context.key)
            case prompted:
                return Implicit(self, reference, prompted, context.key)

    def check(self, context: Context) -> None:
        if context.files is not None and self.to_prealign is None:
            self._source(context, context.files, self._adapter(context))

    def identity(self, context: Context) -> dict[str, str]:
        """Return the fingerprint of the model or adapter; one that the run pre-aligns is a stage's output."""
        from cann_jax.models.adapters.peft import adapter_files
        from cann_jax.models.files.model_files import open_model

        source = self.prealigned
        if source.model is not None:
            return {f"{context.key}.model": open_model(source.model, source.revision).fingerprint()}
        if source.adapter is not None:
            files = [fingerprint_file(path) for path in adapter_files(Path(source.adapter))]
            return {f"{context.key}.model": fingerprint_json(files)}
        return {}

    def _adapter(self, context: Context) -> Path | None:
        if self.to_prealign is not None:
            return context.prealigned(self.to_prealign)
        return None if self.prealigned.adapter is None else Path(self.prealigned.adapter)

    def _source(
        self, context: Context, reference: "ModelFiles", adapter: Path | None
    ) -> "Adapter | ModelFiles | PromptsConfig":
        """Return what makes π_other: an adapter, a model of its own, or prompts with a system message.

        No weight is read.

        Raises:
            InputError: It does not fit the reference.
        """
        from cann_jax.models.adapters.attach import open_attachable
        from cann_jax.models.files.model_files import open_model

        key, source = f"{context.key}.prealigned", self.prealigned
        if adapter is not None:
            return open_attachable(reference, adapter)
        if source.model is not None:
            files = open_model(source.model, source.revision)
            if files.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
                raise InputError(
                    f"{key}.model {source.model!r} has another vocabulary than the reference, so that its "
                    "log-probs are of other tokens; use a model of the same tokenizer"
                )
            return files
        prompts = context.prompts
        if prompts.template != "chat":
            need = "needs prompts.template 'chat', which holds system messages"
            raise InputError(f"{key}.system_prompt {need}")
        longer = prompts.max_tokens + SYSTEM_TOKENS
        if prompts.on_overlong != "truncate_prompt_left":  # none may be dropped: its responses exist already
            prompts = replace(prompts, on_overlong="error")
        return replace(prompts, system=source.system_prompt, max_tokens=longer)


@dataclass(frozen=True)
class Implicit(Scorer):
    """A loaded ``ImplicitScorer`` (paper, algorithm 2, step 2).

    Args:
        config: Its settings.
        model: π_other, or π_ref where a system prompt alone makes π_other of it.
        prompts: Template and limits with π_other's system message; None where it reads the run's own prompts.
        key: Where its settings stand in the configuration, for messages.
    """

    config: ImplicitScorer
    model: "LanguageModel"
    prompts: PromptsConfig | None
    key: str

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        ids = responses.prompts.ids
        if self.prompts is not None:
            room = self.model.config.context - responses.tokens.shape[-1]
            encoded = encode_prompts(responses.prompts.prompts, self.model.tokenizer, self.prompts, room)
            if encoded.truncated:  # π_other would answer other prompts than π_ref
                raise InputError(
                    f"{self.key}: {encoded.truncated} of {len(ids)} prompts would be cut to make room for "
                    "prealigned.system_prompt; shorten it, or lower prompts.max_tokens"
                )
            ids = encoded.ids
        # The run's prompts were cut to the context of the reference, and another model's may be shorter.
        tokens = (len(row) + most for row, most in zip(ids, responses.lengths.max(1), strict=True))
        check_lengths(tokens, self.model.config.context, responses.prompts.prompts, self.key)
        other = self.model.logps(ids, responses.tokens, responses.lengths)
        return Scored((self.config.beta * (other - reference_logps)).astype(np.float32))

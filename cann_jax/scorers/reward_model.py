"""Scores by a reward or cost model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cann_jax.config.model import Dtype
from cann_jax.config.ranges import SYSTEM_UNREAD, TEMPLATE_DATE, Date, NextTurn, PositiveInt, Template
from cann_jax.config.scorers import Better
from cann_jax.data.prompts import Prompt
from cann_jax.data.spelled import count_spelled
from cann_jax.data.templates import scored_end, scored_ids
from cann_jax.files.errors import named
from cann_jax.scorers.base import Context, DialogueScorer, ProbedKind, Scored, check_lengths, sign

if TYPE_CHECKING:
    from cann_jax.models.score_model import ScoreModel, ScoreModelFiles


@dataclass(frozen=True, kw_only=True)
class RewardModelScorer(ProbedKind):
    """A reward or cost model: its score head at the last token of prompt and response.

    Args:
        path: A folder in the layout of Safe-RLHF (``score_head``) or of Hugging Face's
            ``…ForSequenceClassification`` with one label (``score``), or ``owner/name`` on the Hub.
        better: Which way is better: ``lower`` for a cost.
        template: ``chat`` for its tokenizer's chat template, or a text that holds ``{prompt}``; the response
            follows.
        next_turn: As in prompts: what follows for a further turn of a dialogue.
        system: System message of the chat template; null leaves the template's default.
        date: As in prompts.
        end: The token behind the response: ``auto`` is the tokenizer's end token behind a text template and
            nothing behind a chat template, which ends by itself; ``none``; or a token's text.
        revision: Of a model on the Hub.
        dtype: Dtype of matrix products, set apart from the run's.
        batch: Texts scored at once.
    """

    kind: Literal["reward_model"] = "reward_model"
    path: str
    better: Better
    template: Template = "chat"
    next_turn: NextTurn | None = None
    system: str | None = None
    date: Date = TEMPLATE_DATE
    end: str = "auto"
    revision: str | None = None
    dtype: Dtype = "float32"
    batch: PositiveInt = 8

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if self.system is not None and self.template != "chat":
            yield "system", SYSTEM_UNREAD

    def open(self, context: Context) -> "RewardModel":
        from cann_jax.models.score_model import load_score_model

        files, end = self._files(context.key)
        model, limit = load_score_model(files, self.dtype), files.decoder.config.max_positions
        return RewardModel(model, files.decoder.tokenizer, end, limit, self, context.key)

    def check(self, context: Context) -> None:
        if context.files is not None:  # else this machine may hold no model at all
            self._files(context.key)

    def identity(self, context: Context) -> dict[str, str]:
        from cann_jax.models.files.model_files import open_model

        return {f"{context.key}.model": open_model(self.path, self.revision).fingerprint()}

    def _files(self, key: str) -> "tuple[ScoreModelFiles, tuple[int, ...]]":
        """Return the model's files and the ids of its end token, without reading a weight.

        Raises:
            InputError: The model, its template or its end token cannot be used.
        """
        from cann_jax.models.score_model import open_score_model

        files = open_score_model(self.path, self.revision, key)
        with named(key):
            tokenizer = files.decoder.tokenizer
            end = scored_end(tokenizer, self, self.end)
            scored_ids(Prompt("", "Hello"), "Hello", tokenizer, self, end)
        return files, end


@dataclass(frozen=True)
class RewardModel(DialogueScorer):
    """A loaded ``RewardModelScorer``: the score of prompt and response in the model's own template.

    ``tokenizer`` is the model's; ids of the run's own are never given to it. ``end`` holds the ids behind the
    response, and ``longest`` is the longest text in tokens.
    """

    model: "ScoreModel"
    tokenizer: Any
    end: tuple[int, ...]
    longest: int
    config: RewardModelScorer
    key: str

    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        rows = [
            scored_ids(prompt, response, self.tokenizer, self.config, self.end)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        check_lengths(map(len, rows), self.longest, prompts, self.key)
        values = sign(self.config.better) * self.model.scores(rows, self.config.batch)
        return Scored(values, count_spelled(responses, self.tokenizer))

"""Scores by a reward or cost model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cann_jax.config.scorers import RewardModelScorer
from cann_jax.data.prompts import Prompt, answered_ids
from cann_jax.files.errors import InputError, named
from cann_jax.models.score_model import ScoreModel, ScoreModelFiles, load_score_model, open_score_model
from cann_jax.scorers.base import DialogueScorer, Scored, check_lengths, run_probe


@dataclass(frozen=True)
class RewardModel(DialogueScorer):
    """The score of prompt and response in the model's own template, turned so that larger is better.

    Args:
        model: The score model.
        tokenizer: Its tokenizer; ids of the run's own are never given to it.
        end: Ids behind the response.
        longest: Longest text in tokens.
        config: Template and sign.
        key: For messages.
    """

    model: ScoreModel
    tokenizer: Any
    end: tuple[int, ...]
    longest: int
    config: RewardModelScorer
    key: str

    @classmethod
    def load(cls, config: RewardModelScorer, key: str) -> "RewardModel":
        """Raises InputError where the model or its template cannot be used, or the probe fails."""
        files, end = checked(config, key)
        model = load_score_model(files, config.dtype)
        limit = files.decoder.config.max_positions
        scorer = cls(model, files.decoder.tokenizer, end, limit, config, key)
        run_probe(scorer, config.probe, key)
        return scorer

    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        pairs = zip(prompts, responses, strict=True)
        rows = [
            np.array([*answered_ids(prompt, response, self.tokenizer, self.config), *self.end], np.int32)
            for prompt, response in pairs
        ]
        check_lengths(rows, self.longest, prompts, self.key)
        sign = 1 if self.config.better == "higher" else -1
        return Scored(sign * self.model.scores(rows, self.config.batch))


def checked(config: RewardModelScorer, key: str) -> tuple[ScoreModelFiles, tuple[int, ...]]:
    """The model's files and the ids of its end token, without a weight being read.

    Raises:
        InputError: the model, its template or its end token cannot be used.
    """
    if config.batch < 1:
        raise InputError(f"{key}.batch is {config.batch}; it must be greater than 0")
    if config.template != "chat" and "{prompt}" not in config.template:
        raise InputError(f"{key}.template must be 'chat' or a text that holds {{prompt}}")
    files = open_score_model(config.path, config.revision, key)
    with named(key):
        answered_ids(Prompt("", "Hello"), "Hello", files.decoder.tokenizer, config)
    return files, _end(config, files.decoder.tokenizer, key)


def _end(config: RewardModelScorer, tokenizer, key: str) -> tuple[int, ...]:
    if config.end == "none" or (config.end == "auto" and config.template == "chat"):
        return ()
    token = tokenizer.eos_token if config.end == "auto" else config.end
    if token not in tokenizer.get_vocab():
        raise InputError(
            f"{key}.end is {config.end}, and the tokenizer has no token {token!r}; name one, or 'none'"
        )
    return (tokenizer.convert_tokens_to_ids(token),)

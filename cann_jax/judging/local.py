"""A judge read from files, which answers by its log-probs: always one of the answers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cann_jax.config.judge import JudgeModelConfig
from cann_jax.data.padding import pad
from cann_jax.files.errors import named
from cann_jax.files.progress import track
from cann_jax.judging.replies import Asked, Reply
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel

CHUNK = 32  # questions whose replies are kept at once


class LocalJudge:
    """Gives the answer of the largest log-prob.

    Raises:
        InputError: The model cannot be read.
    """

    def __init__(self, config: JudgeModelConfig) -> None:
        with named("judge.path"):
            self._files = open_model(str(config.path), config.revision)
            self._model = LanguageModel.of(load_decoder(self._files, config.dtype), self._files)
        self.tokenizer = self._model.tokenizer
        self.identity: dict[str, Any] = {"files": self._files.fingerprint(), "dtype": config.dtype}

    def ask(self, asked: Mapping[str, Asked], keep: Callable[[str, Reply], None]) -> None:
        """Answer questions of one template, and hand each reply, with the question's name, to ``keep``."""
        names, starts = list(asked), range(0, len(asked), CHUNK)
        for start in track(starts, "judge", unit=CHUNK, noun="questions", total=len(asked)):
            self._ask({name: asked[name] for name in names[start : start + CHUNK]}, keep)

    def _ask(self, asked: Mapping[str, Asked], keep: Callable[[str, Reply], None]) -> None:
        template = next(iter(asked.values())).template
        with named("judge.path"):
            answers, lengths = pad(ids := template.answer_ids(self.tokenizer), max(map(len, ids)))
            rows = {name: template.turn_ids(each.turns, self.tokenizer) for name, each in asked.items()}
        longest = self._model.config.context - answers.shape[1]
        fitting = {name: row for name, row in rows.items() if len(row) <= longest}
        for name in rows.keys() - fitting.keys():
            keep(name, Reply(failure="too long"))
        if not fitting:
            return
        shape = (len(fitting), *answers.shape)
        tokens, counts = np.broadcast_to(answers, shape), np.broadcast_to(lengths, shape[:2])
        logps = self._model.logps([*fitting.values()], tokens, counts)
        for name, index in zip(fitting, logps.argmax(1), strict=True):
            keep(name, Reply(template.answers[index]))

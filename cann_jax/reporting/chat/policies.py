"""The two policies of a finished run, opened once, and their answers with scores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError
from cann_jax.models.language_model import LanguageModel
from cann_jax.reporting.finished_run import finished_run
from cann_jax.run.inputs import check_base
from cann_jax.run.manifest import MANIFEST
from cann_jax.run.outputs import ALIGNED, POLICIES, REFERENCE, WEIGHTS, read_final_scale
from cann_jax.run.policies import answer
from cann_jax.run.prompts import encoded
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers
from cann_jax.run.training import aligned_decoder

TRAINED = (
    "align",
    "experts",
    "calibrate",
    "rounds",
)  # what the aligned model is made of, where a run has them


@dataclass(frozen=True)
class Answer:
    """A policy's response to a prompt.

    Args:
        text: The response.
        tokens: Its length, end token included.
        stopped: Whether it ended by itself; False where it was cut off at the limit.
        truncated: Whether the prompt was too long, and was cut on the left.
        scores: By name; larger is better.
    """

    text: str
    tokens: int
    stopped: bool
    truncated: bool
    scores: dict[str, float]


class Policies:
    """The reference and the aligned model of a run; adapters share the reference's weights.

    Args:
        run: From ``aligned_run``.

    Raises:
        InputError: A file of the run or a model cannot be read, or a scorer cannot be loaded.
    """

    def __init__(self, run: Run) -> None:
        prompts = run.config.prompts
        if prompts.on_overlong == "drop":  # one who asks is told, and not left without an answer
            run.config = replace(run.config, prompts=replace(prompts, on_overlong="error"))
        self.run, self.scale = run, read_final_scale(run)
        self.scorers = load_scorers(run, run.config.measured())
        aligned = LanguageModel.of(aligned_decoder(run), run.files)
        self.models = {REFERENCE: run.reference, ALIGNED: aligned}

    @property
    def not_scored(self) -> tuple[str, ...]:
        """Names of the run's scores that only the training samples have."""
        return tuple(name for name in self.run.config.trained_on() if name not in self.scorers)

    @property
    def converses(self) -> bool:
        """Whether the run's template can write a dialogue of several turns."""
        prompts = self.run.config.prompts
        return prompts.template == "chat" or prompts.next_turn is not None

    def answers(self, prompts: Mapping[str, Prompt], seed: int) -> dict[str, Answer]:
        """Return each policy's answer to its own prompt, both by the same random numbers.

        Raises:
            InputError: A prompt does not fit the template or the model, or a scorer fails.
        """
        return {name: self._answer(name, prompts[name], seed) for name in POLICIES}

    def _answer(self, name: str, prompt: Prompt, seed: int) -> Answer:
        prompts = encoded(self.run, [prompt])
        found = answer(self.run, self.scorers, self.models[name], prompts, seed)
        responses = found.responses
        return Answer(
            text=responses.texts[0][0],
            tokens=int(responses.lengths[0, 0]),
            stopped=bool(responses.stopped[0, 0]),
            truncated=bool(prompts.truncated),
            scores={score: float(values[0, 0]) for score, values in found.scores.items()},
        )


def aligned_run(path: str) -> Run:
    """Return the run in a folder, whose model has been trained.

    Raises:
        InputError: As ``finished_run``; or the run trains none, has not come so far, or trained another base
            than its configuration names today.
    """
    run = finished_run(path)
    if not run.config.trains:
        raise InputError(
            f"{path}: trained no model (evaluate.policy is {run.config.evaluate.policy}); give a run that did"
        )
    for stage in run.stages:
        folder, label = run.folder / stage.name, f"{path}: stage {stage.name!r}"
        if stage.name in TRAINED and not (folder / MANIFEST).exists():
            raise InputError(f"{label} has not ended; start train again to go on")
        if f"{WEIGHTS}/*" in stage.writes and stage.name in TRAINED and not (folder / WEIGHTS).exists():
            raise InputError(f"{label} has lost its {WEIGHTS}; put them back, or start train again")
    check_base(run)
    return run

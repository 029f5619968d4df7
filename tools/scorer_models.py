"""Models of the scorers: which a run holds beside the model that it samples, and how large they are."""

from collections.abc import Iterator
from pathlib import Path

from cann_jax_tools.sizing import Mesh, bytes_of, model_weights

from cann_jax.config.scorers import ScorerConfig
from cann_jax.files.hashes import fingerprint_json
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.folder_files import read_json
from cann_jax.run.run import Run
from cann_jax.scorers.implicit import ImplicitScorer
from cann_jax.scorers.judge import JudgeScorer
from cann_jax.scorers.reward_model import RewardModelScorer

SCORING = ("score", "pair_scores", "calibrate", "rounds", "evaluate")  # stages that load all of their scorers


def scoring_stages(run: Run) -> str:
    """Return the names of the run's stages that score, in words."""
    return ", ".join(stage.name for stage in run.stages if stage.name in SCORING)


def scorer_lines(run: Run, mesh: Mesh, memory: float, sampling: float) -> Iterator[str]:
    """Yield the bytes of the scorers' models on a mesh, and which models are not at hand to be counted.

    ``memory`` is what a device has, and ``sampling`` what a batch of it needs there. The stage ``evaluate``
    holds all scorers at once, from its beginning to its end, while it samples.
    """
    known: dict[str, float] = {}
    unknown: list[str] = []
    for name, dtype in _models(run):
        config = Path(name) / "config.json"
        if config.is_file():
            shape = DecoderConfig.from_hf(read_json(config), str(config))
            known[f"{Path(name).name} ({dtype})"] = bytes_of(model_weights(shape, dtype))
        else:  # on the Hub, which is not asked, or a file of another format
            unknown.append(Path(name).name)
    _, fsdp, tensor = mesh
    if known:
        held = sum(known.values()) / (fsdp * tensor)
        each = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in known.items())
        much = "; too much" if held + sampling > memory else ""
        both = f"with sampling {(held + sampling) / 1e9:.1f} of {memory / 1e9:.0f}{much}"
        stages = f"held all through the stages {scoring_stages(run)}"
        yield f"scorers: {each}: {held / 1e9:.1f} GB a device, {both}; {stages}"
    if unknown:
        yield (
            f"not counted: the scorers' models ({', '.join(dict.fromkeys(unknown))}), which are not at hand; "
            f"the stages {scoring_stages(run)} hold them beside the model that is sampled"
        )


def _models(run: Run) -> Iterator[tuple[str, str]]:
    """Yield path and dtype of each model that a scorer loads; scorers of equal settings share theirs."""
    scorers = [scorer for _, scorer in (*run.config.trained_on().values(), *run.config.measured().values())]
    for scorer in {fingerprint_json(each): each for each in scorers}.values():
        path, dtype = _model(scorer, run.config.model.dtype)
        if path is not None:
            yield path, dtype


def _model(scorer: ScorerConfig, dtype: str) -> tuple[str | None, str]:
    """Return path and dtype of a scorer's own model; the reference, of this ``dtype``, is none."""
    match scorer:
        case RewardModelScorer() | JudgeScorer():
            return scorer.path, scorer.dtype
        case ImplicitScorer():
            return scorer.prealigned.model, dtype
    return None, dtype

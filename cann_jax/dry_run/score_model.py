"""``python -m cann_jax.reward --dry_run``: as ``dry_run.run``, for a reward or cost model."""

from collections.abc import Iterator

from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.dry_run.known_data import bound_of_pairs, pairs_aside
from cann_jax.dry_run.output import STEPS, histogram, plan_lines, print_dry_run, shape_of_model
from cann_jax.dry_run.programs import trace_score_training
from cann_jax.files.console import console
from cann_jax.run.checks import check_warmup
from cann_jax.run.run import ScoreModelRun
from cann_jax.stages.score_model import score_data
from cann_jax.training.score_data import ScoreData


def dry_run_score_model(run: ScoreModelRun, model_config: str | None = None) -> None:
    """Print what the training would do and need; arguments as ``dry_run``.

    Raises:
        InputError: What would stop it.
    """
    out, config = console(), run.config
    shape = shape_of_model(run, model_config, out)
    data = _data(run) if model_config is None and config.preferences.path is not None else None
    steps = STEPS if data is None else data.steps
    bound = bound_of_pairs(config.preferences.max_tokens)
    sizes = bound if data is None else data.largest()
    lines = (*_lines(config, data), *plan_lines(run, run.pipeline, opened=data is not None))
    print_dry_run(
        out,
        run,
        lines,
        lambda: {"training step": trace_score_training(config, shape, *sizes, steps)},
        opened=model_config is None,
    )


def _data(run: ScoreModelRun) -> ScoreData:
    """Return the labelled training pairs, made in a folder that is deleted again."""
    with pairs_aside(run) as aside:
        score_data(aside, "heldout")
        data = score_data(aside, "train")
    check_warmup("", run.config.optimizer, data.steps)
    return data


def _lines(config: ScoreModelConfig, data: ScoreData | None) -> Iterator[str]:
    if data is None:
        yield (
            "preferences: not read; taken to fill preferences.max_tokens, "
            f"{config.preferences.max_tokens}; the number of steps comes with the data"
        )
        return
    yield "tokens of the training pairs, both responses included:"
    yield from histogram(data.responses.total_tokens)
    size, count = data.batching.prompts_per_step, data.responses.shape[0]
    yield f"training: {data.steps} steps of {size} of {count} labelled pairs"

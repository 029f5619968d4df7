"""K responses of the reference to every training prompt."""

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.responses import Responses
from cann_jax.run.run import Run, stage
from cann_jax.run.stages import settings_of
from cann_jax.sampling.shards import read_shards, sample_shards

NAME = "responses"


def run_sample(run: Run) -> None:
    """Leaves ``sample/responses-*.parquet``: text, ids, log-prob and finish reason, one row a response."""
    config = run.config
    settings = {**run.model_settings, **settings_of(config, "sample")}
    inputs = {**run.model_identity, **run.prompts_identity(config.prompts.train)}
    with stage(run, "sample", settings, inputs) as work:
        if work is None:
            return
        prompts = run.train_prompts
        for line in overlong_lines("sample", prompts):
            print(line)
        responses = sample_shards(
            run.reference, prompts, config.sample, config.sample.responses, config.seed, work.folder, NAME
        )
        work.outputs.extend(sorted(path.name for path in work.folder.glob(f"{NAME}-*.parquet")))
        _say(responses)


def read_samples(run: Run) -> Responses:
    """What the stage left."""
    return read_shards(run.folder / "sample", NAME, run.config.sample.max_new_tokens)


def overlong_lines(stage: str, prompts: EncodedPrompts) -> list[str]:
    """What was left out or cut, one line each; nothing where all prompts fit."""
    counts = ((prompts.dropped, "dropped"), (prompts.truncated, "cut on the left"))
    return [
        f"{stage}: {count} overlong prompts {what} (prompts.on_overlong)" for count, what in counts if count
    ]


def _say(responses: Responses) -> None:
    prompts, count = responses.shape
    print(
        f"sample: {prompts} prompts × {count} responses, {responses.lengths.mean():.1f} tokens each, "
        f"{responses.stopped.mean():.0%} ended by themselves"
    )
    identical = sum(len(set(row)) == 1 for row in responses.texts)
    if identical:
        print(f"sample: {identical} prompts whose responses are all identical")

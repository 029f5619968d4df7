"""K responses of the reference to every training prompt."""

from cann_jax.data.responses import Responses
from cann_jax.models.files.generation import unused_settings
from cann_jax.models.files.model_files import GENERATION
from cann_jax.run.outputs import RESPONSES
from cann_jax.run.prompts import encoded_prompts, print_overlong
from cann_jax.run.run import Run
from cann_jax.sampling.features import chosen_layers
from cann_jax.sampling.shards import sample_shards, stop_tokens


def run(run: Run) -> None:
    """Write ``responses-*.parquet`` and ``features-*.npy``.

    The first hold text, ids, log-prob and finish reason, one row a response; the second their features.
    """
    config, prompts = run.config, encoded_prompts(run, "train")
    print_overlong("sample", prompts)
    folder, settings = run.folder / "sample", config.sample
    _print_settings(run)
    layers = chosen_layers(settings.feature_layers, run.files.config.layers)
    responses = sample_shards(
        run.reference, prompts, settings, settings.responses, config.seed, folder, RESPONSES, layers
    )
    _print_summary(responses)


def _print_settings(run: Run) -> None:
    """Print what ends a response, and what of the model's own settings for sampling is not applied."""
    ends = run.files.tokenizer.convert_ids_to_tokens(stop_tokens(run.files, run.config.sample).tolist())
    print(f"sample: a response ends with {' or '.join(ends)}")
    if unused := unused_settings(run.files.generation):
        listed = ", ".join(f"{name} {value}" for name, value in unused.items())
        print(
            f"sample: {GENERATION} asks for {listed}, which is not applied: it samples another policy than "
            "the reference that alignment starts from"
        )


def _print_summary(responses: Responses) -> None:
    prompts, count = responses.shape
    print(
        f"sample: {prompts} prompts × {count} responses, {responses.lengths.mean():.1f} tokens each, "
        f"{responses.stopped.mean():.0%} ended with an end token"
    )
    identical = sum(len(set(row)) == 1 for row in responses.texts)
    if identical:
        print(f"sample: {identical} prompts whose responses are all identical")

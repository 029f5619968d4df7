"""K responses of the reference to every training prompt."""

from cann_jax.data.responses import Responses
from cann_jax.files.console import printable
from cann_jax.run.compute import Compute
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
    ends = run.files.tokenizer.convert_ids_to_tokens(stop_tokens(run.files, settings).tolist())
    print(f"sample: a response ends with {' or '.join(map(printable, ends))}")
    layers = chosen_layers(settings.feature_layers, run.files.config.layers)
    responses = sample_shards(
        run.reference, prompts, settings, settings.responses, config.seed, folder, RESPONSES, layers
    )
    run.ledger.add(Compute(generated_tokens=int(responses.lengths.sum())))
    _print_summary(responses)


def _print_summary(responses: Responses) -> None:
    prompts, count = responses.shape
    print(
        f"sample: {prompts} prompts × {count} responses, {responses.lengths.mean():.1f} tokens each, "
        f"{responses.stopped.mean():.0%} ended with an end token"
    )
    identical = sum(len(set(row)) == 1 for row in responses.texts)
    if identical:
        print(f"sample: {identical} prompts whose responses are all identical")

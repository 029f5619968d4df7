"""The aligned model in the formats of others, each with a card that says whether it holds."""

from cann_jax.run.card import write_card
from cann_jax.run.exports import write_model
from cann_jax.run.run import Run
from cann_jax.run.training import trained_decoder


def run(run: Run) -> None:
    """Write a folder for each format of ``export``.

    Files: in each, besides the model, ``README.md`` (the model card) and ``run.yaml`` (the configuration).

    Raises:
        InputError: The model cannot be written in a format.
    """
    decoder, scale = trained_decoder(run)
    for form in run.config.export:
        folder = run.folder / "export" / form
        write_model(run, form, decoder, scale, folder)
        write_card(run, form, folder)
        print(f"export: {folder}", flush=True)

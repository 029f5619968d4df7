"""π_r and π_g of PeCAN, trained inside the run by plain DPO (Huang et al. 2024, algorithm 2, step 1).

Each is a LoRA adapter beside the reference's weights, which scoring shares: three models, one memory.
"""

from etils import epath

from cann_jax.run.execution import run_part
from cann_jax.run.exports import write_adapter
from cann_jax.run.run import Run
from cann_jax.run.scorers import ADAPTER
from cann_jax.run.training import Training, human_preferences, prealignments, split_decoder, train
from cann_jax.training.health import HEALTH
from cann_jax.training.metrics import METRICS


def run(run: Run) -> None:
    """Train an adapter for each model that a scorer asks for.

    Each has a folder, for example ``safer-beta0.1``, with ``adapter`` (PEFT's format), ``metrics.jsonl``,
    ``health.json`` and TensorBoard events.

    Raises:
        InputError: No pair has the label, a loss that is not finite, or settings that do not fit.
    """
    for name, training in prealignments(run.config).items():
        own = {"preference": training.supervision.label, "beta": training.beta}
        settings = ("model", "prealign", "seed")
        with run_part(run, "prealign", name, settings, own, (f"{ADAPTER}/*", METRICS, HEALTH)) as folder:
            if folder is not None:
                _prealign(run, training, folder)


def _prealign(run: Run, training: Training, folder: epath.Path) -> None:
    data = human_preferences(run, training)
    data.show_pairs()
    model = split_decoder(run, training.settings.lora)
    weights = train(run, training, model, data, folder)
    write_adapter(run, model.decoder(weights), folder / ADAPTER)

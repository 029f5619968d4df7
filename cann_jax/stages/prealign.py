"""π_r and π_g of PeCAN, trained inside the run by plain DPO (Huang et al. 2024, algorithm 2, step 1).

Each is a LoRA adapter beside the reference's weights, which scoring shares: three models, one memory.
"""

from dataclasses import replace

from cann_jax.config.prealign import all_to_prealign
from cann_jax.config.run import RunConfig, scorers_of
from cann_jax.config.scorers import ToPrealign
from cann_jax.config.training import AlignConfig
from cann_jax.run.run import Run, stage
from cann_jax.run.stages import settings_of
from cann_jax.stages.align import export, optimised


def run_prealign(run: Run) -> None:
    """Leaves a folder for each model, for example ``prealign/safer-beta0.1``: ``adapter`` (PEFT's format),
    ``weights`` (Orbax), ``metrics.jsonl`` and TensorBoard events.

    Raises:
        InputError: no pair has the label, a loss that is not finite, or settings that do not fit.
    """
    for asked in all_to_prealign(scorers_of(run.config).values()):
        settings = settings_of(run.config, "seed", "prealign") | asked._asdict()
        settings["model"] = run.model_settings["model"]
        inputs = run.model_identity | {"pairs": run.manifest_of("pairs")}
        with stage(run, asked.stage, settings, inputs) as work:
            if work is not None:
                one = run.changed(training_config(run.config, asked))
                export(one, optimised(one, work, "prealign"), work)


def trainings(config: RunConfig) -> dict[str, RunConfig]:
    """Every preference training of a run, by its stage, with the configuration that it goes by."""
    asked = {each.stage: each for each in all_to_prealign(scorers_of(config).values())}
    return {name: training_config(config, each) for name, each in asked.items()} | {"align": config}


def training_config(config: RunConfig, asked: ToPrealign) -> RunConfig:
    """The run's configuration with the pre-alignment in the place of the alignment."""
    settings = dict(vars(config.prealign))  # every other key has the name and the sense that it has in align
    size = settings.pop("pairs_per_step")
    align = AlignConfig(
        pairs="dataset",
        preference=asked.preference,
        group_size=2,
        prompts_per_step=size,
        export="adapter",
        **settings,
    )
    return replace(config, align=align, dual=replace(config.dual, beta=asked.beta))

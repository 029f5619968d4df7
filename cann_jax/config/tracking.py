"""Where the numbers of trainings are logged."""

from typing import Annotated, Literal

from cann_jax.config.ranges import Must

TrackerName = Literal["jsonl", "tensorboard", "wandb", "trackio", "mlflow"]
TrackerNames = Annotated[
    tuple[TrackerName, ...],
    Must(
        "a list that has jsonl, which the run itself reads, and each name once",
        lambda names: "jsonl" in names and len({*names}) == len(names),
    ),
]

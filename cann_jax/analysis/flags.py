"""The flags of the dual command."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval


@dataclass(frozen=True)
class DualFlags:
    """From a score table to the multipliers of one-shot constrained alignment.

    A GOAL is VALUE, NAME=VALUE or NAME@GROUP=VALUE. Values without a name go to the table's constraints in
    order.

    Args:
        scores (TABLE): Score table: .parquet, .csv, .tsv, .jsonl, .json or .npz, long or wide.
        example (FILE): Write an example score table to this .parquet file, and do nothing else.
        margin (GOAL): Improvement over the reference to ask for.
        at_least (GOAL): Level of the mean score to ask for.
        at_most (GOAL): Level of a mean score of which less is better, in its own units: ``--at_most harm=1``
            is ``--cost harm --at_least harm=-1``.
        max_unsafe (GOAL): Largest share of responses that may score below ``--unsafe_below``.
        unsafe_below (NAME=VALUE): The score below which a response is unsafe; 0 by default.
        unsafe_above (NAME=VALUE): The same of a score of which less is better, in its own units:
            ``--unsafe_above harm=1`` is ``--cost harm --unsafe_below harm=-1``.
        cost (NAME): A score of which less is better; its sign is changed as it is read, so that margins,
            levels and bounds are those of -NAME.
        clip (NAME=LOW,HIGH): Clip these scores, or the reward, to bounds first.
        groups (COLUMN): Prompt column that names groups, to report on and for goals; ``group`` by default,
            where the table has it.
        beta: Weight of the KL term.
        out (FOLDER): Folder to write dual.json, curve.parquet and dual.png to.
        confidence: Level of the intervals and of the conservative multipliers.
        resamples: Bootstrap resamples over prompts; 0 leaves out the bootstrap's intervals, of λ and of the
            ceilings.
        seed: Seed of resampling and splitting.
        prompt (COLUMN): Prompt column of a long table.
        response (COLUMN): Response column of a long table, if it has one.
        reward (COLUMN): Reward column; larger is better, as in every column that is no ``--cost``.
        prompt_weights (COLUMN): Column of prompt weights.
        drop_missing: Leave out, and count, rows without a prompt, a response, a score or a weight.
        features (COLUMN): List column of features of the responses, such as embeddings, or an .npy file of
            them: tells what training can reach.
        folds: Parts of the prompts; features predict the scores of each part by a fit to the others.
        stream: Read a .parquet table sorted by prompt in passes; it may be larger than memory.
    """

    scores: str | None = None
    example: str | None = None
    margin: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    at_most: tuple[str, ...] = ()
    max_unsafe: tuple[str, ...] = ()
    unsafe_below: tuple[str, ...] = ()
    unsafe_above: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    clip: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    beta: Annotated[float, Gt(0)] = 0.1
    out: str | None = None
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95
    resamples: Annotated[int, Ge(0)] = 200
    seed: Annotated[int, Interval(ge=0, lt=2**31)] = 0
    prompt: str = "prompt"
    response: str = "response"
    reward: str = "reward"
    prompt_weights: str | None = None
    features: str | None = None
    folds: Annotated[int, Ge(2)] = 8
    drop_missing: bool = False
    stream: bool = False

    @property
    def goals(self) -> list[tuple[str, str]]:
        """The goals asked for, each with the flag that states it, once ``as_levels`` has turned costs."""
        kinds = ("margin", "at_least", "max_unsafe")
        return [(kind, goal) for kind in kinds for goal in getattr(self, kind)]

    @property
    def features_file(self) -> bool:
        """Whether ``features`` names a file and no column."""
        return self.features is not None and self.features.endswith(".npy")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each flag whose value does not fit the others, with the reason."""
        if self.features is None and self.folds != DualFlags.folds:
            yield "folds", "does nothing without --features; leave it out"
        if self.features is not None and self.drop_missing:
            yield "drop_missing", "does not go with --features; write a table without those rows"
        if self.stream:
            if self.features is not None:
                yield "features", "does not go with --stream; solve such tables in memory"
            for name in ("confidence", "resamples", "seed"):
                if getattr(self, name) != getattr(DualFlags, name):
                    yield name, "does nothing with --stream, which has no intervals; leave it out"

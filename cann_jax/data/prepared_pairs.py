"""Prepared preference pairs, read by grain from ArrayRecord."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.builders.files import HELDOUT, TRAIN, Part
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.prompts import Prompt, Turn

if TYPE_CHECKING:
    import grain

PARTS: tuple[Part, Part] = (TRAIN, HELDOUT)


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, whose id is the file and row that they come from, with human labels.

    Args:
        prompt: The dialogue up to the last user turn.
        responses: Their texts.
        better: Index of the more helpful response, or -1 if not labelled.
        safer: Index of the less harmful response, or -1 if not labelled.
        safe: For each response 1 safe, 0 unsafe, -1 not labelled.
        harms: Harm categories of each response; None if the data have no such columns.
    """

    prompt: Prompt
    responses: tuple[str, str]
    better: int
    safer: int
    safe: tuple[int, int]
    harms: tuple[tuple[str, ...], tuple[str, ...]] | None

    @property
    def one_is_safe(self) -> bool:
        """Whether one response alone is labelled safe, of two of which one is labelled safer."""
        return self.safer != ABSENT and sorted(self.safe) == [0, 1]

    @property
    def contradictory(self) -> bool:
        """Whether the response labelled safer is the only one labelled unsafe."""
        return self.one_is_safe and self.safe[self.safer] == 0


@dataclass(frozen=True)
class PreparedPairs:
    """A prepared data set, under a name that changes with the files' content and how they are read."""

    name: str
    parts: Mapping[Part, "grain.MapDataset"]  # in the order of the source
    files: Mapping[Part, Sequence[str]]  # none held out where a share of the prompts is
    hidden: Sequence[str]  # files that are hidden or temporary, and were not read
    left_out: Mapping[str, int]  # rows that could not be used, by reason
    unread: Sequence[str]  # columns that nothing is read from


def prepare_pairs(config: PreferencesConfig) -> PreparedPairs:
    """Prepare a preference data set to ArrayRecord, unless that was done before, and open it.

    Raises:
        InputError: A download fails, a file or a row is malformed, or a part is empty.
    """
    # Imported late: TFDS and grain take half a second, and most runs have no preference data.
    import grain

    from cann_jax.data.builders.datasets import BUILDERS

    builder = BUILDERS[config.dataset](config)
    builder.prepare()
    sources = {part: grain.MapDataset.source(builder.as_data_source(part)) for part in PARTS}
    parts = {part: source[: config.limit].map(_pair) for part, source in sources.items()}
    name = f"{builder.name}/{builder.builder_config.name}/{builder.version}"
    about = builder.info.metadata
    return PreparedPairs(name, parts, builder.parts, builder.hidden, about["left_out"], about["unread"])


def _pair(record: Mapping[str, Any]) -> Pair:
    roles, texts = (_texts(record["turns"][key]) for key in ("role", "text"))
    turns = tuple(Turn(role, text) for role, text in zip(roles, texts, strict=True))
    prompt = Prompt(record["id"].decode(), turns[-1].text, earlier=turns[:-1])
    return Pair(
        prompt=prompt,
        responses=(record["response_0"].decode(), record["response_1"].decode()),
        better=int(record["better"]),
        safer=int(record["safer"]),
        safe=(int(record["safe_0"]), int(record["safe_1"])),
        harms=(_texts(record["harms_0"]), _texts(record["harms_1"])) if record["harms_known"] else None,
    )


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(value.decode() for value in values)

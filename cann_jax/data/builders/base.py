"""The base of all preference data sets: canonical features, local copies, downloads, ArrayRecord."""

import contextlib
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.builders.files import HELDOUT, TRAIN, Part, by_part, hub_urls, is_hidden, local_files, rows
from cann_jax.data.builders.records import columns_read, record
from cann_jax.files.atomic import writing
from cann_jax.files.digests import DIGESTS, damage, write_digests
from cann_jax.files.errors import InputError, ResourceError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.files.json_lines import BadRow
from cann_jax.files.numbers import counted

Record = dict[str, Any]
_READ_BY = ("chosen_is", "heldout", "on_bad_row")  # the settings that say how files are read


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Do nothing: it looks for TFDS's own data sets, and leaves an empty folder in /tmp at each start."""


# TFDS has no types: mypy sees neither its base class nor that class's keyword.
class PreferenceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A preference data set in the canonical form of ``records.record``.

    Its splits are ``train`` and ``heldout``: the source's own test files, or else a share of the prompts,
    chosen by a hash of the prompt, so that no prompt is in both.
    """

    VERSION = tfds.core.Version("2.1.0")  # of how rows are read; another one prepares anew
    REPOSITORY: ClassVar[str | None] = None
    EXCLUDED: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(self, settings: PreferencesConfig):
        self.settings = settings
        sources = self._sources()
        self.hidden = [name for name in sources if len(sources) > 1 and is_hidden(name)]
        self.parts = by_part([n for n in sources if n not in self.hidden], settings.subset, self.EXCLUDED)
        self.sources = {name: sources[name] for part in self.parts.values() for name in part}
        config = tfds.core.BuilderConfig(name=self._identity(), version=self.VERSION)
        # TFDS warns of every configuration that its own catalogue does not list.
        logging.getLogger("absl").setLevel(logging.ERROR)
        where = settings.prepared or "the folder of TFDS"
        with writing(where), _opening(f"{where}/…/{config.name}"):
            super().__init__(config=config, data_dir=settings.prepared, file_format="array_record")

    def chosen_is(self, name: str) -> str | None:
        """Return the dimension that ``chosen`` of this file is preferred on, or None if it is not known."""
        return self.settings.chosen_is

    def prepare(self) -> None:
        """Download and write ArrayRecord files, unless that was done before.

        Raises:
            InputError: A download fails, a row is malformed, or nothing is left; or what was made before is
                damaged.
        """
        tfds.disable_progress_bar()
        # TFDS prints banners with absolute paths; the caller prints the one line that a user needs.
        with writing(self.data_path), contextlib.redirect_stdout(io.StringIO()):
            self.download_and_prepare()
        folder = epath.Path(self.data_path)
        if not (folder / DIGESTS).exists():
            with contextlib.suppress(ResourceError):  # a copy of an older version, which others share to read
                write_digests(folder)
        elif found := damage(folder):
            raise InputError(_damaged(folder, found))

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "id": text,
            "turns": tfds.features.Sequence({"role": text, "text": text}),
            "response_0": text,
            "response_1": text,
            **dict.fromkeys(("better", "safer", "safe_0", "safe_1", "harms_known"), np.int8),
            "harms_0": tfds.features.Sequence(text),
            "harms_1": tfds.features.Sequence(text),
        }
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the source; training draws its own
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        kept, counts, unread = self._records(self._paths(dl_manager))
        self.info.metadata.update(left_out=dict(counts), unread=unread)
        if empty := [part for part, found in kept.items() if not found]:
            raise InputError(f"preferences: {self._nothing_in(empty[0], kept, counts)}")
        return {part: iter(enumerate(found)) for part, found in kept.items()}

    def _nothing_in(self, part: Part, kept: dict[Part, list[Record]], counts: Counter[str]) -> str:
        """Return why a part has no pair, and what to do."""
        left_out = "; ".join(f"{count} {what}" for what, count in counts.items())
        every, share = [found["turns"] for each in kept.values() for found in each], self.settings.heldout
        if not every or self.parts[HELDOUT]:
            return f"no pair is left in the part {part!r}{left_out and f' ({left_out})'}; give more data"
        prompts = len(set(map(_content, every)))
        what, change = ("none", "raise") if part == HELDOUT else ("all", "lower")
        remedy = f"{change} preferences.heldout, give more prompts," if prompts > 1 else "give more prompts"
        return (
            f"{counted(len(every), 'pair')} of {counted(prompts, 'prompt')}, of which a share of {share:g} "
            f"holds out {what}{left_out and f' ({left_out})'}; {remedy} or a test file"
        )

    def _generate_examples(self) -> Iterator[tuple[int, Record]]:
        """Unused: ``_split_generators`` reads all rows, so that a malformed one stops it before it writes."""
        raise NotImplementedError

    def _sources(self) -> dict[str, Any]:
        if self.settings.path is not None:
            return local_files(self.settings.path)
        assert self.REPOSITORY is not None  # the check of the configuration requires a path
        return hub_urls(self.REPOSITORY, self.settings.revision)

    def _identity(self) -> str:
        """Return a name for what is prepared: other files, or another reading of them, get another folder."""
        files = self.sources
        if self.settings.path is not None:
            files = {name: fingerprint_file(path) for name, path in files.items()}
        return fingerprint_json([files, *(getattr(self.settings, name) for name in _READ_BY)])[:16]

    def _paths(self, dl_manager: Any) -> dict[str, Path]:
        if self.settings.path is not None:
            return self.sources
        try:
            paths: dict[str, Path] = dl_manager.download(self.sources)
        except Exception as error:  # of requests, urllib or TFDS, which share no narrower base
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.REPOSITORY} cannot be downloaded ({reason}); give preferences.path a local copy"
            ) from None
        return paths

    def _records(self, paths: dict[str, Path]) -> tuple[dict[Part, list[Record]], Counter[str], list[str]]:
        """Return the records, the counts of bad rows by reason, and the columns that are not read."""
        kept: dict[Part, list[Record]] = {TRAIN: [], HELDOUT: []}
        bad: dict[str, list[str]] = {}
        unread: dict[str, None] = {}  # a set in the order of the columns
        chosen = False
        split = not self.parts[HELDOUT]
        for part, names in self.parts.items():
            for name in names:
                for where, row in rows(name, paths[name]):
                    try:
                        found = self._record(name, where, row)
                    except BadRow as error:
                        bad.setdefault(error.reason, []).append(where)
                        continue
                    assert not isinstance(row, BadRow), "it is raised"
                    read = columns_read(row)
                    unread |= {key: None for key in row if key not in read}
                    chosen |= "chosen" in read
                    held = split and _is_heldout(found["turns"], self.settings.heldout)
                    kept[HELDOUT if held else part].append(found)
        if self.settings.chosen_is is not None and any(kept.values()) and not chosen:
            raise InputError(
                f"preferences.chosen_is is {self.settings.chosen_is!r}, and no row is read by columns "
                "chosen and rejected; set it to null: columns better_response_id and safer_response_id say it"
            )
        said = {
            f"bad rows left out, the first {places[0]}: {why}": len(places) for why, places in bad.items()
        }
        return kept, Counter(said), list(unread)

    def _record(self, name: str, where: str, row: Record | BadRow) -> Record:
        try:
            if isinstance(row, BadRow):
                raise row
            return record(where, row, self.chosen_is(name))
        except BadRow as error:
            if self.settings.on_bad_row == "drop":
                raise
            raise InputError(
                f"{where}: {error}; mend the row, or set preferences.on_bad_row to drop"
            ) from None


def _content(turns: list[dict[str, str]]) -> str:
    return "\x00".join(turn["text"] for turn in turns)


def _is_heldout(turns: list[dict[str, str]], share: float) -> bool:
    """Return whether a prompt is among the ``share`` that is held out, by a hash of its text."""
    text = _content(turns)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) < share * 2**32


@contextlib.contextmanager
def _opening(folder: str) -> Iterator[None]:
    """Turn what TFDS raises of a description that it cannot read, of several types, into one line."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        raise InputError(_damaged(folder, " ".join(str(error).split()))) from None


def _damaged(folder: epath.PathLike, found: str) -> str:
    return f"preferences: the prepared copy {folder} is damaged ({found}); delete it to prepare it again"

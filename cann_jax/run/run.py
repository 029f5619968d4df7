"""A run: its folder, its configuration, and what several stages need once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

from etils import epath

from cann_jax.config.run import PREFERENCES, ModelConfig, RunConfig
from cann_jax.config.training import LoraConfig
from cann_jax.data.encoded_pairs import EncodedPairs, pairs_from_table
from cann_jax.data.pairs import Part
from cann_jax.data.prompts import EncodedPrompts, Prompt, distinct_prompts, encode_prompts, read_prompts
from cann_jax.files.atomic import (
    fingerprint_file,
    fingerprint_json,
    is_remote,
    read_json,
    read_table,
    write_json,
)
from cann_jax.files.errors import InputError
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.manifest import MANIFEST, begin, commit, expectation, stage_state
from cann_jax.runtime import distributed
from cann_jax.runtime.sharding import check_model, current_mesh

CONFIG = (
    "config.json"  # the last configuration that the run was started with; also marks the folder as a run's
)


@dataclass(frozen=True)
class Run:
    """What the stages of one run share; everything heavy is made at first use.

    Args:
        config: The run's configuration.
    """

    config: RunConfig

    @property
    def folder(self) -> epath.Path:
        return epath.Path(self.config.run_dir) / self.config.name

    @cached_property
    def files(self) -> ModelFiles:
        model = self.config.model
        files = open_model(model.path, model.revision, model.adapter)
        check_model(files.config, current_mesh())
        return files

    @cached_property
    def reference(self) -> LanguageModel:
        """The reference model, π_ref."""
        return LanguageModel.of(self.load(), self.files)

    def changed(self, config: RunConfig) -> "Run":
        """The same folder and model under other settings."""
        run = Run(config)
        vars(run)["files"] = self.files  # cached_property's own place; a model is opened and hashed once
        return run

    def load(self, lora: LoraConfig | None = None, *, wide=False) -> Decoder:
        """The reference model's decoder, perhaps with new adapters; says what it is and how it attends."""
        return load_model(self.files, self.config.model, lora, self.config.seed, wide=wide)

    @cached_property
    def train_prompts(self) -> EncodedPrompts:
        return self._prompts(self.config.prompts.train, "train")

    @cached_property
    def heldout_prompts(self) -> EncodedPrompts:
        return self._prompts(self.config.prompts.heldout, "heldout")

    @cached_property
    def model_identity(self) -> dict[str, str]:
        """Fingerprints of the model and of its template."""
        template = fingerprint_json(self.files.tokenizer.chat_template)
        return {"model": self.files.fingerprint(), "chat_template": template}

    @property
    def model_settings(self) -> dict[str, Any]:
        """How the model is run and fed; where the files lie is not part of it, what they hold is an input."""
        values = settings_of(self.config, "model", "prompts", "seed")
        elsewhere = {"model": ("path", "revision", "adapter"), "prompts": ("train", "heldout")}
        for name, keys in elsewhere.items():
            values[name] = {key: value for key, value in values[name].items() if key not in keys}
        return values

    def manifest_of(self, stage: str) -> str:
        """Fingerprint of what an earlier stage committed.

        Raises:
            InputError: it has not been run to its end.
        """
        path = self.folder / stage / MANIFEST
        if not path.exists():
            raise InputError(
                f"stage {stage!r} has not ended in {self.folder}; run it first, or leave out --stages"
            )
        return fingerprint_json(read_json(path))

    def prompts_identity(self, path: str) -> dict[str, str]:
        """Fingerprint of ``prompts.train`` or ``prompts.heldout``."""
        return {"prompts": self.manifest_of("pairs") if path == PREFERENCES else fingerprint_file(path)}

    def _prompts(self, path: str, part: Part) -> EncodedPrompts:
        config = self.config
        room = self.files.config.max_positions - config.sample.max_new_tokens
        if path == PREFERENCES:
            prompts = self._prompts_of_pairs(part)
        else:
            prompts = read_prompts(path, config.prompts.limit)
        return encode_prompts(prompts, self.files.tokenizer, config.prompts, room)

    def _prompts_of_pairs(self, part: Part) -> list[Prompt]:
        """The distinct prompts of the stage ``pairs``; held-out ones that are trained on too are left out."""
        seen = set()
        if part == "heldout":
            seen = {prompt.dialogue for prompt in read_pairs(self, "train").prompts}
        every = distinct_prompts(read_pairs(self, part).prompts, self.config.seed)
        fresh = [prompt for prompt in every if prompt.dialogue not in seen]
        if len(fresh) < len(every):
            print(f"prompts.{part}: {len(every) - len(fresh)} of {len(every)} are trained on too; left out")
        if not fresh:
            raise InputError(
                f"prompts.{part} is 'preferences', and no held-out pair has a prompt of its own; give a file"
            )
        return fresh[: self.config.prompts.limit]


def load_model(
    files: ModelFiles, config: ModelConfig, lora: LoraConfig | None, seed: int, *, wide: bool
) -> Decoder:
    """A configured model's decoder; says what it is and how it attends. Arguments as ``load_decoder``."""
    decoder = load_decoder(files, config.dtype, lora, seed=seed, wide=wide, attention=config.attention)
    print(f"model: {files.path.name}, {config.dtype}, attention by {decoder.kernel}", flush=True)
    return decoder


class HasFolder(Protocol):
    """A run of any kind: what its stages share is its configuration and the folder they lie in."""

    @property
    def config(self) -> Any: ...

    @property
    def folder(self) -> epath.Path: ...


@contextmanager
def reached(folder: epath.Path) -> Iterator[None]:
    """Around the first touch of a run's folder: whatever a bucket's client raises becomes one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_remote(folder):
            raise
        raise InputError(
            f"run_dir: {folder} cannot be used ({type(error).__name__}: {error}); check its name, that "
            "this machine may write it, and that its client is installed (pip install gcsfs)"
        ) from None


def check_folder(folder: epath.Path) -> None:
    """Raise InputError where a run's folder cannot be read, or holds files that no run made."""
    with reached(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(
                f"{folder} is a file where the run's folder must be; set another name or run_dir"
            )
        present = sorted(child.name for child in folder.iterdir()) if folder.exists() else []
    if present and not any(name.startswith(CONFIG) for name in present):
        raise InputError(
            f"{folder} holds files that this program did not make ({', '.join(present[:3])}); "
            "set another name or run_dir"
        )


def open_folder(run: HasFolder) -> None:
    """Make the run's folder, with the configuration in it.

    Raises:
        InputError: it is another program's, or a process cannot write it or does not see it.
    """
    check_folder(run.folder)
    with reached(run.folder):
        distributed.check_writable(run.folder / CONFIG)
        write_json(run.folder / CONFIG, run.config)
        distributed.check_shared(run.folder / CONFIG)


def read_pairs(run: HasFolder, part: Part) -> EncodedPairs:
    """What the stage ``pairs`` left of one part."""
    return pairs_from_table(read_table(run.folder / "pairs" / f"{part}.parquet"))


@contextmanager
def stage(
    run: HasFolder, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator["Stage | None"]:
    """Enter a stage: None where it is done already; else its folder, committed on the way out.

    Args:
        run: The run.
        name: The stage.
        settings: What of the configuration it reads.
        inputs: Fingerprints of what it reads.
    """
    folder = run.folder / name
    expected = expectation(name, settings, inputs)
    state = stage_state(folder, expected)
    distributed.barrier(f"stage {name} begins")
    if state.state == "done":
        print(f"{name}: done already, by the same settings and inputs", flush=True)
        yield None
        return
    for difference in state.differences:
        print(f"{name}: {difference}")
    if state.differences:
        print(
            f"{name}: computed again, because of {'this' if len(state.differences) == 1 else 'these'}",
            flush=True,
        )
    if distributed.is_first() and begin(folder, expected):
        print(f"{name}: going on with what was finished before", flush=True)
    distributed.barrier(f"stage {name} begun")
    work = Stage(folder, [])
    yield work
    distributed.barrier(f"stage {name} worked")
    if distributed.is_first():
        commit(folder, expected, work.outputs)
    distributed.barrier(f"stage {name} ends")


@dataclass(frozen=True)
class Stage:
    """A stage at work.

    Args:
        folder: Where it writes.
        outputs: Names of the files it leaves, filled while it works.
    """

    folder: epath.Path
    outputs: list[str]

    def output(self, name: str) -> epath.Path:
        """The path of a file that the stage leaves."""
        self.outputs.append(name)
        return self.folder / name


def settings_of(config: RunConfig, *names: str) -> dict[str, Any]:
    """Some fields of a configuration, as a dictionary."""
    values = asdict(config)
    return {name: values[name] for name in names}

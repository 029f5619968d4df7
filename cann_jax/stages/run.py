"""A run: its folder, its configuration, and what several stages need once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property

from etils import epath

from cann_jax.artifacts import fingerprint_file, fingerprint_json, read_json
from cann_jax.config import RunConfig
from cann_jax.data.prompts import EncodedPrompts, encode_prompts, read_prompts
from cann_jax.errors import InputError
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.load import ModelFiles, load_decoder, open_model
from cann_jax.stages.manifest import MANIFEST, begin, commit, expectation, stage_state


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
        return open_model(self.config.model.path)

    @cached_property
    def reference(self) -> LanguageModel:
        """The reference model, π_ref."""
        return LanguageModel.of(load_decoder(self.files, self.config.model.dtype), self.files)

    @cached_property
    def train_prompts(self) -> EncodedPrompts:
        return self._prompts(self.config.prompts.train)

    @cached_property
    def heldout_prompts(self) -> EncodedPrompts:
        return self._prompts(self.config.prompts.heldout)

    @cached_property
    def model_identity(self) -> dict[str, str]:
        """Fingerprints of the model and of how it is fed."""
        template = {key: getattr(self.config.prompts, key) for key in ("template", "system", "on_overlong", "max_tokens")}
        template |= {"chat_template": self.files.tokenizer.chat_template, "limit": self.config.prompts.limit}
        return {"model": self.files.fingerprint(), "template": fingerprint_json(template)}

    def manifest_of(self, stage: str) -> str:
        """Fingerprint of what an earlier stage committed.

        Raises:
            InputError: it has not been run to its end.
        """
        path = self.folder / stage / MANIFEST
        if not path.exists():
            raise InputError(f"stage {stage!r} has not ended in {self.folder}; run it first, or leave out --stages")
        return fingerprint_json(read_json(path))

    def _prompts(self, path: str) -> EncodedPrompts:
        config = self.config
        room = self.files.config.max_positions - config.sample.max_new_tokens
        prompts = read_prompts(path, config.prompts.limit)
        return encode_prompts(prompts, self.files.tokenizer, config.prompts, room)


@contextmanager
def stage(run: Run, name: str, settings, inputs: dict[str, str]) -> Iterator["Stage | None"]:
    """Enter a stage: None where its manifest matches and it is skipped; else its folder, committed on the way out.

    Args:
        run: The run.
        name: The stage.
        settings: What of the configuration it reads.
        inputs: Fingerprints of what it reads.
    """
    folder = run.folder / name
    expected = expectation(name, settings, inputs)
    state = stage_state(folder, expected)
    if state.state == "done":
        print(f"{name}: done already, by the same settings and inputs")
        yield None
        return
    for difference in state.differences:
        print(f"{name}: made by other settings, {difference}; computed again")
    if begin(folder, expected):
        print(f"{name}: going on with what was finished before")
    work = Stage(folder, [])
    yield work
    commit(folder, expected, work.outputs)


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


def prompts_identity(path: str) -> dict[str, str]:
    return {"prompts": fingerprint_file(path)}


def settings_of(config, *names: str) -> dict:
    """Some fields of a configuration, as a dictionary."""
    values = asdict(config)
    return {name: values[name] for name in names}

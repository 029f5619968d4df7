"""The commands: the name, the flags and the help text of each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from annotated_types import Interval

from cann_jax.analysis.flags import DualFlags
from cann_jax.config.export import Format
from cann_jax.files.errors import InputError

Flags = TypeVar("Flags")

CONFIGURED = """\
Every key below goes into the YAML file or, written as here, on the command line, which wins over the file.
Mappings are overridden by name. 'null' switches off what may be null (--align.lora null). Lists are written
[a, b].
"""
SCORERS = """\
Where the file has a constraint 'safe', --constraints.safe.margin 0.7 changes its margin and
--constraints.safe.scorer.clip 1e-4 a key of its scorer; an unused name adds a new entry.
"""
DUAL_EXAMPLES = """\
Examples:
  python -m cann_jax.dual --example scores.parquet
  python -m cann_jax.dual --scores scores.parquet --margin safe=1 --beta 0.5 --out result
  python -m cann_jax.dual --scores scores.parquet --margin safe@inviting=1 --at_least polite=0.2
  python -m cann_jax.dual --scores scores.parquet --max_unsafe safe=0.2 --unsafe_below safe=-2
  python -m cann_jax.dual --scores scores.parquet --features embedding --margin safe=1
"""
CHAT_EXAMPLES = """\
Examples:
  python -m cann_jax.chat runs/quickstart
  python -m cann_jax.chat runs/quickstart --prompt "How do I boil an egg?" --seed 7
  python -m cann_jax.chat runs/quickstart < prompts.txt
"""


@dataclass(frozen=True)
class Command(Generic[Flags]):
    """One command of the command line.

    Args:
        name: Name of the command, as in ``python -m cann_jax NAME``.
        flags: Dataclass of the command's own flags. Its docstring is the help text; a flag of tuple type may
            be repeated.
        positional: The field that takes the arguments given without a flag.
        notes: Paragraphs of the help text between the usage and the flags.
    """

    name: str
    flags: type[Flags]
    positional: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The entry point's module, which has a function ``main(argv)``."""
        return f"cann_jax.{self.name.replace('-', '_')}"


@dataclass(frozen=True)
class ConfiguredFlags:
    """Flags of a command that trains.

    Args:
        config (FILE.yaml): YAML file of the configuration, or the name of one that the package carries:
            ``quickstart`` and others; an unknown name lists them.
        dry_run: Check configuration, files, shapes and memory, and compute nothing.
        verify: Hash every file that earlier stages left, not only those whose size or time has changed.
        model_config (FILE): A config.json that the dry run uses in place of a model that is not at hand, or
            the name of one that the package carries, for example ``llama-7b``.
        profile (STEPS): Write a trace of steps START to STOP - 1 of each training, for XProf and TensorBoard.
            Write ``START:STOP``; ``2:5`` leaves out the first steps, which compile.
    """

    config: str
    dry_run: bool = False
    verify: bool = False
    model_config: str | None = None
    profile: str | None = None

    @property
    def profiled(self) -> range:
        """The steps to profile.

        Raises:
            InputError: ``profile`` is not written START:STOP, or holds no step.
        """
        if self.profile is None:
            return range(0)
        found = re.fullmatch(r"(\d+):(\d+)", self.profile)
        steps = range(*map(int, found.groups())) if found else range(0)
        if not steps:
            raise InputError(f"command line: --profile {self.profile}: write START:STOP, for example 2:5")
        return steps

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each flag whose value does not fit the others, with the reason."""
        if self.model_config is not None and not self.dry_run:
            yield "model_config", "belongs to --dry_run; add that, or leave it out"
        if self.profile is not None and self.dry_run:
            yield "profile", "traces what a dry run does not do; leave one of them out"


@dataclass(frozen=True)
class TrainFlags(ConfiguredFlags):
    """Align a model under constraints: from prompts to an aligned model and a report.

    Args:
        stages (STAGE,...): Run only these stages, for example ``sample,score``.
        require: With ``holds``, end with exit status 4 unless the certificate of every constraint holds.
        device (NAME): The dry run proposes mesh, micro-batches and batches for these devices, for example
            v5e:4x4, h100 or h200:8, in place of compiling for those at hand.
    """

    stages: str | None = None
    require: Literal["holds"] | None = None
    device: str | None = None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each flag whose value does not fit the others, with the reason."""
        yield from super().conflicts()
        if self.device is not None and not self.dry_run:
            yield "device", "belongs to --dry_run; add that, or leave it out"


@dataclass(frozen=True)
class RewardFlags(ConfiguredFlags):
    """Train a reward or cost model on human preferences."""


@dataclass(frozen=True)
class ReportFlags:
    """Write the reports of runs again, and compare several.

    Args:
        runs (RUN): Folders of runs, finished or not, for example runs/quickstart.
        out (FOLDER): Folder of the comparison of several runs.
    """

    runs: tuple[str, ...]
    out: str = "."


@dataclass(frozen=True)
class ExportFlags:
    """Write the model of a finished run in one more format, and push it to the Hugging Face Hub.

    Args:
        run (RUN): Folder of the run, for example runs/quickstart.
        format: ``adapter`` (PEFT's format), ``merged`` (a Hugging Face folder) or ``gguf`` (for llama.cpp).
        push (OWNER/NAME): Repository on the Hub to upload the folder to. One that does not exist is made; it
            is private.
        public: The repository that is made is public.
    """

    run: str
    format: Format = "adapter"
    push: str | None = None
    public: bool = False

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each flag whose value does not fit the others, with the reason."""
        if self.public and self.push is None:
            yield "public", "belongs to --push; add that, or leave it out"


@dataclass(frozen=True)
class ChatFlags:
    """Ask a finished run's model, beside the reference, and see the scores of both answers.

    Without ``--prompt``, prompts are read from the terminal, as a conversation, or from a pipe, one a line.

    Args:
        run (RUN): Folder of a run whose model has been trained, for example runs/quickstart.
        prompt (TEXT): A prompt to answer; then end.
        seed: Seed of the answers; null takes the run's. The same prompt and seed give the same answers.
    """

    run: str
    prompt: str | None = None
    seed: Annotated[int, Interval(ge=0, lt=2**31)] | None = None


@dataclass(frozen=True)
class JudgeFlags:
    """Ask an outside judge which model answers better, and how often each is unsafe.

    Args:
        run (RUN): Folder of a finished run, for example runs/quickstart.
        config (FILE.yaml): YAML file of the keys below; without one they are given as flags.
    """

    run: str
    config: str | None = None


@dataclass(frozen=True)
class CompletionFlags:
    """Print what lets a shell complete the commands, flags and keys of ``cann-jax``.

    Args:
        shell: The shell. For bash, add ``eval "$(cann-jax completion bash)"`` to ~/.bashrc; for zsh, write
            the output to a file ``_cann-jax`` in a folder of $fpath.
    """

    shell: Literal["bash", "zsh", "tcsh", "fish"]


@dataclass(frozen=True)
class CompileCheckFlags:
    """Compile a run's programs for a TPU slice, without a TPU, and count what they need.

    Args:
        config (FILE.yaml): YAML file of the run's configuration, or the name of one that the package carries.
        topology (SLICE): TPU slice, for example v5e:4x4, v5p:4x4x4 or v6e:16x16.
        model_config (FILE): A config.json, or a name as ``llama-7b``; without it, the one in the folder
            model.path.
        programs (PROGRAM,...): Some of: training step,sampling,scoring.
        json (FILE): File to write the figures to.
        machine_code: With ``no``, stop where the program is optimised and laid out in memory, a small part of
            the time; for one program. Kernels are not proven to compile then, and bytes moved may come out a
            fifth too low (485 against 582 GB in the one program that was compiled both ways).
    """

    config: str
    topology: str
    model_config: str | None = None
    programs: str = "training step,sampling,scoring"
    json: str | None = None
    machine_code: bool = True


TRAIN = Command("train", TrainFlags, notes=(CONFIGURED, SCORERS))
DUAL = Command("dual", DualFlags, notes=(DUAL_EXAMPLES,))
REWARD = Command("reward", RewardFlags, notes=(CONFIGURED,))
REPORT = Command("report", ReportFlags, positional="runs")
EXPORT = Command("export", ExportFlags, positional="run")
CHAT = Command("chat", ChatFlags, positional="run", notes=(CHAT_EXAMPLES,))
JUDGE = Command("judge", JudgeFlags, positional="run", notes=(CONFIGURED,))
COMPILE_CHECK = Command("compile-check", CompileCheckFlags, notes=(CONFIGURED, SCORERS))
COMPLETION = Command("completion", CompletionFlags, positional="shell")
COMMANDS: dict[str, Command[Any]] = {
    command.name: command
    for command in (TRAIN, DUAL, REWARD, REPORT, EXPORT, CHAT, JUDGE, COMPILE_CHECK, COMPLETION)
}

"""A run: its configuration, its folder, and the models and prompts that several stages need, opened once."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from etils import epath

from cann_jax.config.model import PromptSet
from cann_jax.config.preferences import PreferencesConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.config.training import LoraConfig
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prepared_pairs import PreparedPairs, prepare_pairs
from cann_jax.data.templates import Template
from cann_jax.files.hashes import as_json
from cann_jax.files.paths import reached
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.generation import not_applied
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.compute import Ledger
from cann_jax.run.manifest import flattened
from cann_jax.run.pipeline import PIPELINE, SCORE_MODEL_PIPELINE, Stage
from cann_jax.run.stages import Pipeline, reads_setting, stages_of
from cann_jax.runtime.memory import within_memory
from cann_jax.runtime.mesh import current_mesh
from cann_jax.runtime.sharding import check_model

C = TypeVar("C", bound=RunConfig | ScoreModelConfig)


class ModelRun(ABC, Generic[C]):
    """What the runs of every kind have; everything heavy is made at first use.

    Args:
        config: The run's configuration.
    """

    pipeline: ClassVar[Pipeline]

    def __init__(self, config: C) -> None:
        self.config: C = config
        self.ledger = Ledger()
        self.fingerprints: dict[str, dict[str, str]] = {}  # of outside files, filled by run/inputs.py

    @property
    def folder(self) -> epath.Path:
        """The run's folder."""
        with reached(self.config.run_dir, "run_dir"):
            return epath.Path(self.config.run_dir) / self.config.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every value of the configuration, by its dotted key."""
        return dict(flattened(as_json(self.config)))

    def settings_of(self, stage: Stage) -> dict[str, Any]:
        """Return the values that a stage reads of the configuration, by their dotted keys."""
        return {key: value for key, value in self.settings.items() if reads_setting(stage, key)}

    @property
    def stages(self) -> Pipeline:
        """The stages that this run has, in their order."""
        return stages_of(self.pipeline, self.config)

    @property
    @abstractmethod
    def template(self) -> Template:
        """The settings by which prompts are written."""

    @property
    def preferences(self) -> PreferencesConfig:
        """The settings of the preference pairs, in runs that have them."""
        assert self.config.preferences is not None, "the pipeline asks for them only where they are set"
        return self.config.preferences

    @cached_property
    def files(self) -> ModelFiles:
        """The model's files, opened and checked against the mesh."""
        model = self.config.model
        files = open_model(model.path, model.revision, model.adapter)
        check_model(files.config, current_mesh())
        return files

    @cached_property
    def prepared_pairs(self) -> PreparedPairs:
        """The preference data set, prepared."""
        return prepare_pairs(self.preferences)

    def load(self, lora: LoraConfig | None = None, *, wide: bool = False) -> Decoder:
        """Load the model's decoder, perhaps with new adapters, and print what it is and how it attends.

        Args:
            lora: Adapters to add.
            wide: Whether weights are float32, as for training them, whatever the dtype of products.
        """
        model = self.config.model
        with within_memory("model", lambda _: "give the mesh more devices (mesh.fsdp, mesh.tensor)"):
            decoder = load_decoder(
                self.files, model.dtype, lora, seed=self.config.seed, wide=wide, attention=model.attention
            )
        print(f"model: {self.files.path.name}, {model.dtype}, attention by {decoder.kernel}", flush=True)
        return decoder


class Run(ModelRun[RunConfig]):
    """An alignment."""

    pipeline = PIPELINE

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.encoded: dict[PromptSet, EncodedPrompts] = {}  # filled by run/prompts.py

    @property
    def template(self) -> Template:
        """The settings by which prompts are written."""
        return self.config.prompts

    @cached_property
    def reference(self) -> LanguageModel:
        """The reference model, π_ref; what its files ask of sampling that is not applied is printed."""
        for line in not_applied(self.files.generation):
            print(line, flush=True)
        return LanguageModel.of(self.load(), self.files)


class ScoreModelRun(ModelRun[ScoreModelConfig]):
    """The training of a reward or cost model."""

    pipeline = SCORE_MODEL_PIPELINE

    @property
    def template(self) -> Template:
        """The settings by which prompts are written."""
        return self.config

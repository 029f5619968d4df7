"""The tiny model and SmolLM2, loaded once."""

from pathlib import Path

import pytest

from cann_jax.config.training import LoraConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import ModelFiles, open_model


@pytest.fixture(scope="session")
def tiny_files(tiny_folder) -> ModelFiles:
    return open_model(str(tiny_folder))


@pytest.fixture(scope="session")
def tiny(tiny_files) -> Decoder:
    """The tiny model in float32."""
    return load_decoder(tiny_files, "float32")


@pytest.fixture(scope="session")
def smollm2_files() -> ModelFiles:
    return open_model("embedded:smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2(smollm2_files) -> Decoder:
    """SmolLM2 in float32."""
    return load_decoder(smollm2_files, "float32")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2, smollm2_files, tmp_path_factory) -> Path:
    """SmolLM2 as a float32 Hugging Face folder."""
    folder = tmp_path_factory.mktemp("smollm2")
    export_folder(smollm2, smollm2_files, folder)
    return folder


@pytest.fixture(scope="session")
def every_target() -> LoraConfig:
    """Adapters on every layer that can have one."""
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return LoraConfig(rank=4, alpha=8.0, dropout=0.5, targets=targets)

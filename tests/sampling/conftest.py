"""The tiny model, ready to sample."""

from pathlib import Path

import pytest

from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel


def language_model(folder: Path, dtype: str = "float32") -> LanguageModel:
    files = open_model(str(folder))
    return LanguageModel.of(load_decoder(files, dtype), files)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder) -> LanguageModel:
    return language_model(tiny_folder)

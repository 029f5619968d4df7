"""Fixtures that several rooms share."""

from pathlib import Path

import pytest

from tests.tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A Hugging Face folder: a tiny random Llama, a tokenizer whose pad is its eos, and a chat template."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))

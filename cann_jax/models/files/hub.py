"""Models by their name on the Hugging Face Hub: downloaded once into its cache, and read from there."""

import re
from pathlib import Path

from cann_jax.files.errors import InputError

NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Weights come after the rest, because a repository may hold them in both forms.
BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
SUBFOLDERS = "*/*"  # these hold other formats


def is_name(path: str) -> bool:
    """Return whether ``path`` may be a repository: ``owner/name``, and no such file or folder exists."""
    return NAME.fullmatch(path) is not None and not Path(path).exists()


def download(name: str, revision: str | None) -> Path:
    """Return the folder of a repository's files in the Hub's cache; ``HF_HUB_OFFLINE=1`` avoids the network.

    ``revision`` is a branch, tag or commit, or None for the default branch.

    Raises:
        InputError: Neither the Hub nor the cache provides it.
    """
    folder = _snapshot(name, revision, WEIGHTS[0])
    return folder if any(folder.glob(WEIGHTS[0])) else _snapshot(name, revision, WEIGHTS[1])


def _snapshot(name: str, revision: str | None, weights: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = [*BESIDE_WEIGHTS, weights]
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=SUBFOLDERS)
        )
    # Whatever goes wrong with the network or the Hub's answer is an OSError.
    except (OSError, HFValidationError) as error:
        reason = next(iter(str(error).split("\n")), type(error).__name__).strip()
        version = "" if revision is None else f" at revision {revision}"
        raise InputError(
            f"{name}{version} is not a folder here and cannot be read from the Hugging Face Hub ({reason}); "
            "check the name, the network and your access, or download the folder and give its path"
        ) from None

"""Models by their name on the Hugging Face Hub: downloaded once into its cache, and uploaded."""

import re
from pathlib import Path

from etils import epath

from cann_jax.files.errors import InputError
from cann_jax.files.paths import is_remote

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


def check_name(name: str) -> None:
    """Raise InputError if ``name`` is not ``owner/name``."""
    if NAME.fullmatch(name) is None:
        raise InputError(f"command line: --push {name!r} is no repository; write owner/name")


def upload(folder: epath.Path, name: str, *, private: bool) -> str:
    """Upload a folder's files to a repository of the Hub, in one commit, and return its address.

    A repository that does not exist is made; of one that does, other files and visibility stay as they are.

    Raises:
        InputError: There is no token, or the Hub cannot be reached or refuses. The folder is as it was.
    """
    from huggingface_hub import HfApi

    if is_remote(folder):
        raise InputError(f"{folder} lies in an object store; copy it to a disk, and use `hf upload {name}`")
    api = HfApi(token=True)
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model, by cann_jax")
    # The client's errors share no base: of its own, of the HTTP library, and OSError.
    except Exception as error:
        reason = next(iter(str(error).split("\n")), "").strip() or type(error).__name__
        raise InputError(
            f"{name} was not pushed to {api.endpoint} ({reason}); check name, network, and that your "
            f"token may write (hf auth login or HF_TOKEN); {folder} stays, and the same command tries again"
        ) from None
    return address


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

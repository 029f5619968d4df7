"""Files that the package carries: configurations with their prompts, and architectures of models."""

from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError

CONFIGS = "configs"  # below the package where it was installed, at the repository's top level in a checkout


def shipped_folder() -> Path:
    """Return the folder of the configurations that the package carries."""
    package = Path(__file__).resolve().parents[1]
    installed = package / CONFIGS
    return installed if installed.is_dir() else package.parent / CONFIGS


def shipped_configurations() -> dict[str, Path]:
    """Return the configurations that the package carries, by name."""
    return {path.stem: path for path in sorted(shipped_folder().rglob("*.yaml"))}


def architecture_file(text: str) -> Path:
    """Return the ``config.json`` that a text names: one that the package carries, else the file itself."""
    names = {path.stem: path for path in (shipped_folder() / "models").glob("*.json")}
    return names.get(text, Path(text))


def is_name(text: str) -> bool:
    """Return whether a text has neither folder nor suffix, and so names a configuration of the package."""
    return Path(text).name == text and not Path(text).suffix


def configuration_file(text: str) -> Path:
    """Return the file that ``--config`` means: a path as it is, and a name among those of the package.

    Raises:
        InputError: The package carries no configuration of this name.
    """
    if not is_name(text):
        return Path(text)
    shipped = shipped_configurations()
    if text not in shipped:
        raise InputError(
            f"command line: --config: the package carries no configuration {text!r}; give a file as a path, "
            f"./{text}, or one of {', '.join(shipped)}"
        )
    return shipped[text]


def located(values: Any) -> Any:
    """Return the values of a shipped configuration, with texts ``configs/…`` as paths into the package."""
    if isinstance(values, dict):
        return {key: located(value) for key, value in values.items()}
    if isinstance(values, list):
        return [located(value) for value in values]
    prefix = f"{CONFIGS}/"
    if isinstance(values, str) and values.startswith(prefix):
        return str(shipped_folder() / values.removeprefix(prefix))
    return values

"""Configuration files."""

from typing import Any

import yaml

from cann_jax.files.errors import InputError
from cann_jax.files.shipped import configuration_file, is_name, located
from cann_jax.files.yaml_text import load_yaml


def read_yaml(path: str) -> dict[str, Any]:
    """Read the mapping in a YAML file, or in a configuration that the package carries, by its name.

    Raises:
        InputError: The package carries no configuration of this name; or the file does not exist, is not
            valid YAML, gives a key twice (the message names the line) or holds something other than a
            mapping.
    """
    file = configuration_file(path)
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); give --config an existing YAML file"
        raise InputError(f"{path}: {problem}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_problem(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings; write 'key: value' lines, --help lists the keys")
    return located(values) if is_name(path) else values


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    first_line = str(error).splitlines()[0]
    line = "" if mark is None else f", line {mark.line + 1}"
    return f"{line}: is not valid YAML ({getattr(error, 'problem', None) or first_line})"

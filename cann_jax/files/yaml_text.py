"""YAML texts, as people's files and command lines hold them."""

from typing import Any

import yaml


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value that a text holds.

    Raises:
        yaml.YAMLError: It is not valid YAML. PyYAML itself raises other errors for some texts that are not:
            ValueError for the day 2025-02-30, and RecursionError for a thousand brackets.
    """
    try:
        return yaml.load(text, Loader=loader)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(str(error) or type(error).__name__) from None

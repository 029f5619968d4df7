"""Words and numbers on the command lines of the scripts here, checked before anything runs."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from cann_jax.files.errors import nearest


def one_of(words: Iterable[str]) -> Callable[[str], str]:
    """Return what reads one of these words; another is refused, and the nearest named."""
    known = list(words)

    def word(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"there is no {text!r}; did you mean {nearest(text, known)}? There are {', '.join(known)}"
            )
        return text

    return word


def listed(each: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return what reads a list with commas, every part of it by ``each``: a type, or ``one_of``."""

    def parts(text: str) -> list[Any]:
        found = []
        for part in text.split(","):
            try:
                found.append(each(part.strip()))
            except ValueError:
                example = "0,1,2" if each is int else "0.1,0.2"
                raise argparse.ArgumentTypeError(
                    f"{part!r} is no {each.__name__}; write them like {example}"
                ) from None
        return found

    return parts

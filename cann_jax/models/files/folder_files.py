"""Files of a model's folder, which others wrote: where they may lie, and how large they may be."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError, shown

LONGEST_JSON = 4 << 20  # bytes; of objects in objects Python makes 100 MB
MORE_TEMPLATES = "additional_chat_templates"  # the one folder below a model's that transformers reads


def check_folder(folder: Path) -> None:
    """Check that nothing in a folder is a link that leads out of it, or a pipe or device.

    Raises:
        InputError: Something is.
    """
    with contextlib.suppress(FileNotFoundError):  # told by what reads it
        for path in (*folder.iterdir(), *(folder / MORE_TEMPLATES).glob("*")):
            inside(folder, str(path.relative_to(folder)))


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder.

    Raises:
        InputError: It lies elsewhere, by ``..`` or by a link, or is a pipe or device, which may never end.
    """
    path, home = folder / name, folder.resolve()
    with reading(folder, f"names {shown(name)}, which no file can have", "copy it again"):
        real, endless = path.resolve(), path.exists() and not (path.is_file() or path.is_dir())
    # A snapshot of the Hub's cache is a folder of links into the cache's own ``blobs``.
    roots = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(real.is_relative_to(root) for root in roots):
        raise InputError(f"{folder}: {name} leads out of the folder; copy the file that is meant into it")
    if endless:
        raise InputError(f"{path} is a pipe or a device; put a plain file there")
    return path


def read_json(path: Path, longest: int = LONGEST_JSON) -> dict[str, Any]:
    """Read a JSON object of at most so many bytes.

    Raises:
        InputError: The file is missing or too long, is not JSON, or holds another kind of value.
    """
    try:
        if path.stat().st_size > longest:
            raise InputError(f"{path} has more than {longest >> 20} MB, as no such file has; copy it again")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; copy the whole folder") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); copy it again") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} instead of a JSON object; copy it again")
    return value


@contextlib.contextmanager
def reading(source: object, problem: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into one line: "SOURCE PROBLEM (REASON); REMEDY".

    Those in Rust raise a BaseException, PanicException, where they meet what they take for impossible.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{source} {problem} ({reason}); {remedy}") from None

"""Inputs as they should not be: cut, overwritten, recoded, with values retyped, moved, doubled or gone."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import yaml

Random = np.random.Generator

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, -0.5, 1e-300, 1e300, float("inf"), float("nan")),
    *(
        2**31,
        2**63,
        10**30,
        10**400,
        -(2**63),
        "",
        " ",
        "x",
        "0",
        "null",
        "1e3",
        "true",
        "{prompt}",
        "{{ x }}",
        "{% if",
    ),
    *(
        "../..",
        "../../../../etc/passwd",
        "/",
        "a.b",
        "chat",
        "a" * 3000,
        "\0",
        "\ud83d",
        "é\u2028\u202e",
        "\ufeff",
        "日本",
        "%s",
        "{}",
        "-",
    ),
    *([], {}, [[]], [None], [1, "a"], ["a", "a"], {"": None}, {"a": {"b": [1]}}, {"role": "user"}, DEEP),
)


def changed_bytes(content: bytes, rng: Random) -> bytes:
    """Cut, overwrite, recode or repeat a file's content."""
    data, where = bytearray(content), int(rng.integers(0, max(len(content), 1)))
    match int(rng.integers(0, 10)):
        case 9:
            return content[:where] + b"[" * 100_000
        case 0:
            return bytes(data[:where])
        case 1:
            return b""
        case 2:
            data[where : where + 1] = bytes(rng.integers(0, 256, 1, np.uint8))
        case 3:
            data[where:where] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8))
        case 4:
            return b"\xef\xbb\xbf" + content
        case 5:
            return content.decode(errors="replace").encode("utf-16")
        case 6:
            del data[where : where + int(rng.integers(1, 40))]
        case 7:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            return b"\n".join(lines)
        case 8:
            return content + content[where:]
    return bytes(data)


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a tree."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)
    return found


def changed_tree(tree: Any, rng: Random) -> Any:
    """Return a copy in which one to three values are others, gone, nested, moved, or under another key."""
    tree = deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = _places(tree, [])
        if not places:
            return tree
        above, key = places[int(rng.integers(0, len(places)))]
        other, name = places[int(rng.integers(0, len(places)))]
        value = VALUES[int(rng.integers(0, len(VALUES)))]
        match int(rng.integers(0, 7)):
            case 0 | 1 | 2:
                above[key] = deepcopy(value)
            case 3:
                del above[key]
            case 4:
                above[key] = [above[key]] if rng.random() < 0.5 else {"a": above[key]}
            case 5:
                above[key] = deepcopy(other[name])
            case 6 if isinstance(above, dict):
                short = isinstance(value, str) and len(value) < 99
                above[value if short else str(key).upper()] = above.pop(key)
    return tree


def changed_json(content: bytes, rng: Random) -> bytes:
    """Change a JSON file: its bytes, its tree, or a key that then stands there twice."""
    kind = rng.random()
    if kind < 0.25:
        return changed_bytes(content, rng)
    tree = json.loads(content)
    if kind < 0.35:
        twice = json.dumps(VALUES[int(rng.integers(0, len(VALUES)))])
        key = json.dumps(list(tree)[int(rng.integers(0, len(tree)))])
        return f"{json.dumps(tree)[:-1]}, {key}: {twice}}}".encode()
    return json.dumps(changed_tree(tree, rng)).encode()


def changed_lines(content: bytes, rng: Random) -> bytes:
    """Change a file of JSON lines: its bytes, or the tree of some of its lines."""
    if rng.random() < 0.25:
        return changed_bytes(content, rng)
    lines = content.splitlines()
    for index in rng.permutation(len(lines))[: int(rng.integers(1, 4))]:
        lines[index] = changed_json(lines[index], rng)
    return b"\n".join(lines) + b"\n"


def changed_yaml(content: bytes, rng: Random) -> bytes:
    """Change a YAML file: its bytes, or its tree."""
    if rng.random() < 0.2:
        return changed_bytes(content, rng)
    text = yaml.safe_dump(changed_tree(yaml.safe_load(content), rng), allow_unicode=True)
    return text.encode(errors="surrogatepass")


def changed_safetensors(content: bytes, rng: Random) -> bytes:
    """Change a file of tensors: its bytes, the length of its header, or the header's tree."""
    kind, size = rng.random(), int.from_bytes(content[:8], "little")
    if kind < 0.2:
        return changed_bytes(content, rng)
    if kind < 0.3:
        wrong = int(rng.choice([0, 1, size - 1, size + 8, 2**40, 2**63]))
        return wrong.to_bytes(8, "little") + content[8:]
    header = json.dumps(changed_tree(json.loads(content[8 : 8 + size]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def changed_gguf(content: bytes, rng: Random) -> bytes:
    """Change a GGUF file's header: its bytes, or what may be a number in it to one that no file has."""
    data, end = bytearray(content), content.index(b"tokenizer.ggml.tokens")
    if rng.random() < 0.2:
        return changed_bytes(content[: 2 * end], rng) + content[2 * end :]
    where, size = int(rng.integers(4, end + 60)), int(rng.choice([4, 8]))
    if rng.random() < 0.5:  # where lengths stand: behind a key and its kind
        where = int(rng.choice([8, 16, 24, end - 8, end + 21, end + 25, end + 29, end + 37]))
    number = (
        int(rng.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1])) if size == 4 else 2 ** int(rng.integers(0, 64))
    )
    data[where : where + size] = number.to_bytes(size, "little")
    return bytes(data)


TEMPLATES = (
    "", " ", "{{ messages }}", "{{ messages[5].content }}", "{% for m in messages %}{{ m }}{% endfor %}",
    "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% for x in range(9) %}{{ x }}{% endfor %}", "{% if %}",
    "{{ messages[0].__class__ }}", "{{ undefined.a.b }}", "{% include 'x' %}", "\0", "{{ strftime_now(3) }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ messages | tojson }}", "{{ '\\ud83d' }}",
)  # fmt: skip


def changed_template(content: bytes, rng: Random) -> bytes:
    """Change a chat template: its bytes, or the whole of it."""
    if rng.random() < 0.4:
        return changed_bytes(content, rng)
    return TEMPLATES[int(rng.integers(0, len(TEMPLATES)))].encode()


Change = Callable[[bytes, Random], bytes]

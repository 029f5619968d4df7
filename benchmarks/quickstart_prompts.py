"""Write the quickstart's prompts: one pool of requests, split at random into train, calibration and held-out.

    python benchmarks/quickstart_prompts.py

The pool holds as many requests of the group ``everyday`` as of the group ``rude`` (requests that invite
rudeness): those of ``quickstart_written.jsonl`` and those that ``quickstart_templates.txt`` gives, both in
``configs/prompts``. Each part is a random sample of the pool, group by group, so the parts are exchangeable.
Its groups alternate, so the first prompts, however many, are balanced.
"""

import json
import re
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "prompts"
GROUPS = ("everyday", "rude")
# Prompts of each group in each part.
PARTS = {"train": 160, "calibration": 128, "heldout": 288}
SEED = 0
SLOT = re.compile(r"\[(.*?)\]")


def main() -> None:
    for part, lines in parts().items():
        (FOLDER / f"quickstart_{part}.jsonl").write_text(lines, encoding="utf-8")


def parts() -> dict[str, str]:
    """Return what the file of each part holds."""
    rng = np.random.default_rng(SEED)
    # Sorted, so that the order of the templates has no effect.
    pool = {group: list(rng.permutation(sorted(requests))) for group, requests in requests_by_group().items()}
    found = {}
    for part, count in PARTS.items():
        drawn = zip(*([pool[group].pop() for _ in range(count)] for group in GROUPS), strict=True)
        found[part] = "".join(lines(part, [text for pair in drawn for text in pair]))
    left = {group: len(requests) for group, requests in pool.items() if requests}
    if left:
        raise ValueError(f"the parts do not use up the pool: {left}")
    return found


def lines(part: str, texts: list[str]) -> list[str]:
    """Return prompts of alternating groups as JSON lines."""
    rows = (
        {"id": f"{part}-{place + 1:04d}", "prompt": str(text), "group": GROUPS[place % len(GROUPS)]}
        for place, text in enumerate(texts)
    )
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def requests_by_group() -> dict[str, list[str]]:
    """Return the pool: the written requests and those of the templates."""
    pool: dict[str, list[str]] = {group: [] for group in GROUPS}
    for line in (FOLDER / "quickstart_written.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pool[row["group"]].append(row["prompt"])
    group = ""
    for line in (FOLDER / "quickstart_templates.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line and not line.startswith("#"):
            pool[group] += filled(line)
    return pool


def filled(template: str) -> list[str]:
    """Return a template's prompts: the nth takes the nth alternative of every slot.

    Raises:
        ValueError: A template has fewer than two slots, or slots of different lengths.
    """
    slots = [slot.split("|") for slot in SLOT.findall(template)]
    if len(slots) < 2 or len({len(slot) for slot in slots}) > 1:
        raise ValueError(f"{template!r} needs at least two slots with as many alternatives each")
    prompts = []
    for choice in zip(*slots, strict=True):
        words = iter(choice)
        prompts.append(SLOT.sub(lambda _, words=words: next(words), template))
    return prompts


if __name__ == "__main__":
    main()

"""The quickstart's prompts are what their generator writes: three balanced parts of one pool."""

import json
import re
import runpy
from collections import Counter

import pytest

from tests.builders import ROOT

GENERATOR = runpy.run_path(str(ROOT / "benchmarks/quickstart_prompts.py"), run_name="imported")
FOLDER = ROOT / "configs/prompts"


def rows(part: str) -> list[dict[str, str]]:
    text = (FOLDER / f"quickstart_{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_files_are_what_the_generator_writes():
    for part, text in GENERATOR["parts"]().items():
        assert (FOLDER / f"quickstart_{part}.jsonl").read_text(encoding="utf-8") == text, part


def test_counts_and_balance():
    sizes = {"train": 320, "calibration": 256, "heldout": 576}
    for part, size in sizes.items():
        groups = [row["group"] for row in rows(part)]
        assert groups == ["everyday", "rude"] * (size // 2)


def test_no_prompt_twice():
    words = Counter(
        " ".join(re.findall(r"\w+", row["prompt"].casefold()))
        for part in GENERATOR["PARTS"]
        for row in rows(part)
    )
    assert len(words) == 1152 and words.most_common(1)[0][1] == 1


def test_prompts_are_sentences_of_ordinary_length():
    for part in GENERATOR["PARTS"]:
        for row in rows(part):
            text = row["prompt"]
            assert 5 <= len(text.split()) <= 25 and text[-1] in ".?" and text[0].isupper(), text
            assert not re.search(r"[\[\]|]|  |\ba [aei]", text), text


def test_uneven_slots_are_refused():
    with pytest.raises(ValueError, match="as many alternatives"):
        GENERATOR["filled"]("Write [a|b|c] about [d|e].")

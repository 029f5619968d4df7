"""Several runs side by side."""

import json
import shutil

from etils import epath

from cann_jax.report import main
from cann_jax.reporting.comparison import different, names_of
from tests.reporting.test_page import Elements


def test_runs_are_compared_in_words_and_on_a_page(folder, tmp_path, capsys):
    other = tmp_path / "other" / "trial"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "evaluate")
    config = json.loads((other / "config.json").read_text())
    config["evaluate"]["bootstrap"] = 77
    (other / "config.json").write_text(json.dumps(config))
    main([str(folder), str(other), "--out", str(tmp_path / "both")])
    lines = ["runs/trial: UNDECIDED", "other/trial: NOT EVALUATED"]
    assert capsys.readouterr().out.splitlines()[-2:] == lines
    text = (tmp_path / "both" / "comparison.md").read_text()
    assert text.startswith("# runs/trial against other/trial\n")
    assert "| runs/trial | safe | undecided | +0.500 | +0.600 | [+0.500, +0.700] | +0.500 |" in text
    assert "| runs/trial | undecided | safe 1.5 | 0.300 | 0.250 | 3.0 → 4.0 | 1.250 | – |" in text
    assert "| evaluate.bootstrap | 2000 | 77 |" in text and "| name |" not in text
    assert "| interval | predicted at scale 1 |" in text
    found = Elements((tmp_path / "both" / "comparison.html").read_text())
    captions = found.texts("figcaption")
    assert "safe: measured change with interval, the margin as a line" in captions
    assert "reward: measured change with interval" in captions  # which has none
    links = [value for value in found.values("href") if value.endswith("report.html")]
    assert len(links) == 2 and all((tmp_path / "both" / link).exists() for link in links)
    verdicts = [text.strip().partition(".")[0] for text in found.texts("p")]
    assert verdicts == [
        "safe: UNDECIDED",
        "not evaluated: nothing is known yet of prompts that nobody has used",
    ]


def test_names_are_the_shortest_that_tell_runs_apart():
    paths = [epath.Path(each) for each in ("a/x", "b/y", "c/x")]
    assert names_of(paths[:2]) == ("x", "y") and names_of(paths) == ("a/x", "b/y", "c/x")
    assert names_of(paths[:1] * 2) == ("a/x (1)", "a/x (2)")


def test_only_what_differs_is_listed():
    first, second = {"a": 1, "b": [1], "name": "x"}, {"a": 1, "b": [2], "name": "y", "c": None}
    assert different([first, second]) == [("b", "[1]", "[2]"), ("c", "–", "null")]

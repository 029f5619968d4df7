"""``prompts.train: preferences``: the distinct prompts of the preference pairs, dialogues whole."""

import pyarrow.parquet as pq
import pytest

from cann_jax import train
from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from tests.builders import ROOT
from tests.builders.preferences import dialogue, write_lines
from tests.builders.runs import write_config

FROM_PAIRS = ("--prompts.train", "preferences", "--prompts.heldout", "preferences")
NO_GROUP = ("--constraints.length.group", "null")


def row(number: int, answer: str) -> dict:
    start = (f"Hello {number}", "Hi there", "Tell me more")
    return {"chosen": dialogue(*start, f"Gladly: {answer}"), "rejected": dialogue(*start, "No.")}


@pytest.fixture
def run(tmp_path, tiny_folder, monkeypatch, capsys):
    """Run stages on 20 dialogues with two pairs each, of which the last three are tested on too."""
    monkeypatch.chdir(ROOT)
    data = tmp_path / "data/harmless-base"
    pairs = [row(number, answer) for number in range(20) for answer in ("a", "b")]
    write_lines(data / "train.jsonl", pairs)
    write_lines(data / "test.jsonl", [*pairs[-6:], *(row(number, "a") for number in range(30, 35))])
    section = {
        "dataset": "hh_rlhf",
        "on_overlong": "error",
        "path": str(data.parent),
        "prepared": str(tmp_path / "prepared"),
    }
    config = write_config(tmp_path, tiny_folder, preferences=section)

    def run(*flags: str) -> str:
        train.main(["--config", config, *NO_GROUP, *flags])
        return capsys.readouterr().out

    return run


def sampled(tmp_path, stage: str, name: str):
    """Rows by prompt of what a stage sampled."""
    paths = (tmp_path / "runs/tiny" / stage).glob(f"{name}-*.parquet")
    return {row["prompt_id"]: row for path in paths for row in pq.read_table(path).to_pylist()}


def test_each_dialogue_is_sampled_once_and_whole(run, tmp_path):
    run(*FROM_PAIRS, "--prompts.limit", "12", "--stages", "pairs,sample")
    rows = sampled(tmp_path, "sample", "responses")
    openings = {row["earlier"][0]["text"] for row in rows.values()}
    assert len(rows) == len(openings) == 12 and openings != {f"Hello {n}" for n in range(12)}
    assert {row["earlier"][1]["text"] for row in rows.values()} == {"Hi there"}
    assert all(int(name.rpartition(":")[2]) % 2 == 1 for name in rows)  # the first of a dialogue's two pairs
    again = run(*FROM_PAIRS, "--prompts.limit", "12", "--stages", "pairs,sample")
    assert "sample: done already" in again
    longer = run(*FROM_PAIRS, "--preferences.max_tokens", "300", "--stages", "pairs,sample")
    assert "sample: inputs.pairs: " in longer


def test_held_out_prompts_are_not_trained_on(run, tmp_path):
    said = run(*FROM_PAIRS, "--stages", "pairs")
    assert "prompts.heldout: 3 of 8 are trained on too; left out" in said and "5 prompts held out" in said
    config, _ = parse_run(["--config", str(tmp_path / "tiny.yaml"), *FROM_PAIRS, *NO_GROUP])
    openings = {prompt.earlier[0].text for prompt in encoded_prompts(Run(config), "heldout").prompts}
    assert openings == {f"Hello {n}" for n in range(30, 35)}


def test_half_of_the_prompts_to_measure_on_are_calibrated_on(run, tmp_path):
    flags = (*FROM_PAIRS, "--prompts.calibration", "preferences")
    said = run(*flags, "--stages", "pairs")
    assert "prompts.calibration: 3 of 8 are trained on too; left out" in said
    assert "prompts.heldout: 6 of 8 are trained on or calibrated on too; left out" in said
    assert "pairs: 3 prompts to calibrate on" in said and "pairs: 2 prompts held out" in said
    run = Run(parse_run(["--config", str(tmp_path / "tiny.yaml"), *flags, *NO_GROUP])[0])
    openings = [
        {prompt.earlier[0].text for prompt in encoded_prompts(run, name).prompts}
        for name in ("calibration", "heldout")
    ]
    assert not openings[0] & openings[1] and set.union(*openings) == {f"Hello {n}" for n in range(30, 35)}


def test_held_out_pairs_give_no_prompt_that_a_file_calibrates_on(run, tmp_path):
    rows = [{"prompt": "Sing"}, {"prompt": "hello 31"}]
    flags = (*FROM_PAIRS, "--prompts.calibration", str(write_lines(tmp_path / "own.jsonl", rows)))
    write_lines(
        tmp_path / "data/harmless-base/test.jsonl",
        [
            {"chosen": dialogue(f"Hello {n}.", "Yes"), "rejected": dialogue(f"Hello {n}.", "No")}
            for n in (30, 31)
        ],
    )
    said = run(*flags, "--stages", "pairs")
    assert "prompts.heldout: 1 of 2 are trained on or calibrated on too; left out" in said


def test_mistakes(run, tmp_path):
    with pytest.raises(InputError, match=r"prompts\.calibration is 'preferences'; set prompts\.heldout to"):
        run("--prompts.calibration", "preferences")
    with pytest.raises(InputError, match="stage 'pairs', which has not ended"):
        run(*FROM_PAIRS, "--stages", "sample")
    with pytest.raises(InputError, match=r"prompts\.train is 'preferences'; add the section preferences"):
        run(*FROM_PAIRS, "--preferences", "null")
    write_lines(tmp_path / "data/harmless-base/test.jsonl", [row(3, "a")])
    with pytest.raises(InputError, match="no held-out pair has a prompt of its own"):
        run(*FROM_PAIRS, "--stages", "pairs")

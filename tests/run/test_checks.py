"""What depends on the data's sizes is refused before anything is sampled."""

import pytest

from cann_jax import train
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import write_config


@pytest.fixture
def refused(tmp_path, tiny_folder, monkeypatch):
    """Run a configuration that is refused; returns the message and the stages that have begun."""
    monkeypatch.chdir(ROOT)

    def refused(*flags: str, **changes) -> tuple[str, set[str]]:
        config = write_config(tmp_path, tiny_folder, **changes)
        with pytest.raises(InputError) as caught:
            train.main(["--config", config, *flags])
        folder = tmp_path / "runs/tiny"
        begun = {path.parent.name for path in folder.glob("*/settings.json")} if folder.exists() else set()
        return str(caught.value), begun

    return refused


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
def test_a_warmup_that_outlasts_the_training(refused, dry):
    """12 prompts twice, 5 a step: 5 steps."""
    message, begun = refused("--align.optimizer.warmup_steps", "5", *dry)
    expected = "align: optimizer.warmup_steps is 5 and this training has 5 steps"
    assert message.startswith(expected) and not begun


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
@pytest.mark.parametrize("asked", [("--dual.multipliers", "attainable"), ("--align.labels", "denoised")])
def test_more_folds_than_prompts_where_predicted_scores_are_needed(refused, asked, dry):
    message, begun = refused("--dual.folds", "13", *asked, *dry)
    assert message == "dual.folds: 13 folds of 12 prompts; give 2 to 12" and not begun


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
def test_a_group_that_no_prompt_has(refused, dry):
    message, begun = refused("--constraints.length.group", "evne", *dry)
    assert "constraints.length.group is 'evne', and no prompt of prompts.train has it" in message
    assert "their groups are even, odd" in message and not begun


@pytest.fixture
def prompts(tmp_path):
    """Write a file of prompts, given as texts or as (text, group); returns its path."""

    def prompts(name: str, *rows: str | tuple[str, str]) -> str:
        pairs = [(row, "even") if isinstance(row, str) else row for row in rows]
        lines = [
            {"prompt": text, "id": f"{name}-{n}", "group": group} for n, (text, group) in enumerate(pairs)
        ]
        return str(write_lines(tmp_path / f"{name}.jsonl", lines))

    return prompts


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
@pytest.mark.parametrize("name", ["calibration", "heldout"])
def test_a_group_that_no_prompt_to_measure_on_has(refused, prompts, name, dry):
    message, begun = refused(f"--prompts.{name}", prompts("own", ("Sing", "odd"), ("Dance", "odd")), *dry)
    assert f"constraints.length.group is 'even', and no prompt of prompts.{name} has it" in message
    assert message.endswith("their groups are odd") and not begun


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
@pytest.mark.parametrize("name", ["calibration", "heldout"])
def test_prompts_that_are_trained_on_too(refused, prompts, name, dry):
    """The tiny run trains on "Tell me about N": the same requests, written in other ways."""
    own = prompts("own", "Sing", "tell me  ABOUT 7!", "Tell me about 3?", "Tell me about 3!")
    message, begun = refused(f"--prompts.{name}", own, *dry)
    assert message.startswith(
        f"prompts.train and prompts.{name} share 2 of their prompts, the first of them "
    )
    assert "'4' and 'own-2', 'Tell me about 3'; " in message
    assert message.endswith("remove them from one of the two") and "\n" not in message and not begun


def test_calibration_prompts_that_are_held_out_too(refused, prompts):
    message, begun = refused("--prompts.calibration", prompts("own", "Sing", "explain 2"))
    assert message.startswith("prompts.calibration and prompts.heldout share 1 of their prompts")
    assert "'own-1' and '3', 'explain 2'" in message and not begun


def test_the_evaluation_alone_is_refused_too(refused, prompts):
    own = prompts("own", "Sing", "Tell me about 3")
    message, _ = refused("--prompts.heldout", own, "--stages", "evaluate")
    assert message.startswith("prompts.train and prompts.heldout share 1 of their prompts")


def test_prompts_that_are_cut_to_the_same_end(refused, prompts):
    flags = ("--prompts.max_tokens", "12", "--prompts.on_overlong", "truncate_prompt_left")
    message, begun = refused(
        *flags, "--prompts.heldout", prompts("own", "Say nothing about 3, tell me about 3")
    )
    assert "prompts.train and prompts.heldout share 1 of their prompts" in message
    assert message.endswith("raise prompts.max_tokens, which cuts off what they differ in") and not begun


def test_only_the_prompts_that_the_limit_takes_are_compared(refused, prompts):
    own = prompts("own", "Sing", "Dance", "Tell me about 3")
    flags = ("--prompts.heldout", own, "--align.optimizer.warmup_steps", "99")
    assert "optimizer.warmup_steps" in refused(*flags, "--prompts.limit", "2")[0]


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_prompts_that_are_repeated_count_once(refused, prompts, name, capsys):
    """40 copies of 10 prompts are no 400: intervals and folds would take them for so many."""
    own = prompts("own", *(f"{text}{end}" for text in ("Sing", "Dance", "Cook") for end in ("", "!", " ...")))
    message, _ = refused(f"--prompts.{name}", own, "--align.optimizer.warmup_steps", "99")
    assert f"prompts.{name}: 6 of 9 repeat another one; each counts once" in capsys.readouterr().out
    assert "optimizer.warmup_steps" in message


@pytest.fixture
def on_pairs(refused, tmp_path):
    """As ``refused``, where the policy is trained on a data set's 30 pairs."""
    section = {"dataset": "local", "on_overlong": "error", "prepared": str(tmp_path / "prepared")}
    section["path"] = str(write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(30)]))
    flags = ("--align.pairs", "dataset", "--constraints.length.group", "null")
    return lambda *more: refused(*flags, *more, preferences=section)


def test_a_warmup_on_pairs_is_refused_before_sampling(on_pairs):
    message, begun = on_pairs("--align.optimizer.warmup_steps", "99")
    assert message.startswith("align: optimizer.warmup_steps is 99 and this training has")
    assert begun == {"pairs"}


def test_heldout_prompts_that_the_pairs_are_trained_on(on_pairs, prompts):
    every = [f"How do I do task {number}?" for number in range(30)]
    message, begun = on_pairs("--prompts.heldout", prompts("own_heldout", "Sing", *every))
    assert message.startswith("the preference pairs and prompts.heldout share ") and "'How do I do" in message
    assert begun == {"pairs"}

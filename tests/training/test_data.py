"""What differs between MoCAN, PeCAN and the DPO baselines: the labels of a batch, and nothing else."""

import dataclasses
import itertools

import numpy as np
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import best_widths
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.dry_run.known_data import bound_of_pairs
from cann_jax.run.training import alignment
from cann_jax.training import batching
from cann_jax.training.batching import Batching
from cann_jax.training.preference_data import PreferenceData
from tests.builders.runs import write_config

PAIRS = 9


@pytest.fixture
def data(tmp_path, tiny_folder):
    """Two responses to each of nine prompts, of very different lengths."""

    def data(*flags: str, reward=None) -> PreferenceData:
        section = {"dataset": "local", "on_overlong": "drop", "path": "x.jsonl"}
        config = write_config(tmp_path, tiny_folder, preferences=section)
        flags = ("--constraints.length.group", "null", "--align.prompts_per_step", "3", *flags)
        run, _ = parse_run(["--config", config, *flags])
        random = np.random.default_rng(0)
        lengths = random.integers(1, 90, (PAIRS, 2)).astype(np.int32)
        tokens = random.integers(5, 300, (PAIRS, 2, 90)).astype(np.int32)
        prompts = EncodedPrompts(
            tuple(Prompt(str(n), f"prompt {n}") for n in range(PAIRS)),
            tuple(np.arange(1 + 11 * n, dtype=np.int32) for n in range(PAIRS)),
        )
        texts = [[f"first {n}", f"second {n}"] for n in range(PAIRS)]
        responses = Responses(prompts, tokens, lengths, lengths > 0, lengths.astype(np.float32), texts)
        reward = random.normal(size=(PAIRS, 2)).astype(np.float32) if reward is None else reward
        reference = np.zeros((PAIRS, 2), np.float32)
        return PreferenceData(alignment(run).batching, responses, reward, reference, {"safe": -reward})

    return data


DATASET = ("--align.pairs", "dataset")


def test_labels_of_the_pseudo_reward(data):
    soft = data(*DATASET)
    rows, columns = soft.places(0)
    difference = soft.reward[rows, columns][:, 0] - soft.reward[rows, columns][:, 1]
    np.testing.assert_allclose(soft.labels(rows, columns)[:, 0, 1], 1 / (1 + np.exp(-difference)), rtol=1e-5)
    drawn = data(*DATASET, "--align.soft_labels", "false").labels(rows, columns)
    assert set(np.unique(drawn[:, 0, 1])) <= {0.0, 1.0}
    smooth = data(*DATASET, "--align.label_smoothing", "0.2").labels(rows, columns)
    np.testing.assert_allclose(smooth[:, 0, 1], 0.2 + 0.6 * soft.labels(rows, columns)[:, 0, 1], rtol=1e-5)


@pytest.mark.parametrize("dimension", ["better", "safer"])
def test_labels_of_people(data, dimension):
    reward = np.eye(2, dtype=np.float32)[np.arange(PAIRS) % 2]
    human = data(*DATASET, "--align.preference", dimension, reward=reward)
    rows, columns = human.places(0)
    labels = human.labels(rows, columns)
    for place, row in enumerate(rows[:, 0]):
        preferred = columns[place].tolist().index(row % 2)
        assert labels[place, preferred, 1 - preferred] == 1 and labels[place, 1 - preferred, preferred] == 0


def test_batches_of_a_data_set_hold_what_is_stored(data):
    source = data(*DATASET)
    for step in range(source.steps):
        batch, (rows, columns) = source.batch(step), source.places(step)
        assert batch.room.groups == 1  # three prompts a step
        total = batch.prompt_lengths + batch.response_lengths.sum(1)
        assert batch.room in source.rooms and total.max() <= batch.room.tokens
        for place in np.ndindex(3, 2):
            length = int(batch.response_lengths[place])
            stored = source.responses.tokens[rows[place[0], 0], columns[place]]
            np.testing.assert_array_equal(batch.responses[place][:length], stored[:length])
    assert source.steps == 6 and 1 < len(source.rooms) <= 6


def mixed(count: int, **changes) -> PreferenceData:
    """Pairs whose prompts and responses have log-normal lengths from 16 to 512 tokens."""
    lengths = np.exp(np.random.default_rng(0).normal(np.log(90), 0.8, (count, 3)))
    lengths = np.clip(np.round(lengths), 16, 512).astype(np.int32)
    prompts = EncodedPrompts(
        tuple(Prompt(str(n), str(n)) for n in range(count)),
        tuple(np.zeros(length, np.int32) for length in lengths[:, 0]),
    )
    tokens, own = np.zeros((count, 2, 512), np.int32), lengths[:, 1:]
    responses = Responses(prompts, tokens, own, own > 0, own.astype(np.float32), [["", ""]] * count)
    return PreferenceData(
        Batching(0, 2, 8, ragged=True, **changes), responses, np.zeros((count, 2)), np.zeros((count, 2))
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_mixed_lengths_waste_a_twentieth_and_make_six_programs(accumulation):
    source = mixed(803, accumulation=accumulation)
    computed, heads, used, seen = 0, 0, 0, []
    for step in range(source.steps):
        rows, columns = source.places(step)
        room = source.room(rows, columns)
        own = source.responses.lengths[rows, columns].sum(1)
        total = own + np.array([len(source.responses.prompts.ids[row]) for row in rows[:, 0]])
        # Row i of the batch goes to micro-batch i mod accumulation, where two after each other share a row.
        for part in range(accumulation):
            assert (total[part::accumulation].reshape(-1, 2).sum(1) <= room.tokens).all()
            assert (own[part::accumulation].reshape(-1, 2).sum(1) <= room.predicted).all()
        computed, heads, used = computed + 4 * room.tokens, heads + 4 * room.predicted, used + total.sum()
        seen += [rows[:, 0]]
        assert room in source.rooms and room.groups == 2
    assert len(source.rooms) <= 6 and 1 - used / computed < 0.07
    assert heads < 0.95 * computed
    counts = np.bincount(np.concatenate(seen), minlength=803)
    assert counts.min() >= 2 and counts.max() <= 3


def test_on_a_tpu_steps_are_of_similar_length_and_cut_to_their_longest(monkeypatch):
    """Its kernel wants a mask that is known before the data."""
    monkeypatch.setattr(batching, "platform", lambda: "tpu")
    source, sizes, used, computed = mixed(803), set(), 0, 0
    for step in range(source.steps):
        batch = source.batch(step)
        assert batch.room is None
        sizes.add((batch.prompts.shape[1], batch.responses.shape[2]))
        assert (batch.prompt_lengths <= batch.prompts.shape[1]).all()
        assert (batch.response_lengths <= batch.responses.shape[2]).all()
        used += batch.prompt_lengths.sum() + batch.response_lengths.sum()
        computed += batch.prompts.size + batch.responses.size
    assert len(sizes) < 30 and source.largest()[:2] in sizes and source.largest()[2] is None
    assert bound_of_pairs(500) == (512, 512, None)
    assert 1 - used / computed < 0.6  # with one width for all steps it would be .75


def test_the_same_step_again_after_a_resume():
    """Order and rooms are functions of the data, the seed and the step."""
    first, again = mixed(100), mixed(100)
    for step in (11, 24, 3):
        np.testing.assert_array_equal(first.places(step)[0], again.places(step)[0])
        assert first.room(*first.places(step)) == again.room(*again.places(step))


def test_the_mesh_does_not_change_the_order(monkeypatch):
    alone = mixed(100)
    expected = [alone.places(step)[0] for step in range(20)]
    for devices, groups in ((4, 2), (8, 1)):
        monkeypatch.setattr(batching, "axis_size", lambda _, devices=devices: devices)
        source = mixed(100)
        assert source.room(*source.places(0)).groups == groups
        for step, rows in enumerate(expected):
            np.testing.assert_array_equal(source.places(step)[0], rows)


def test_three_pairs_are_shown_with_their_scores(data, capsys):
    source = data(*DATASET)
    source.show_pairs()
    said = capsys.readouterr().out
    assert said.count("pair: prompt") == 3 and said.count("preferred, safe ") == 6
    row, column = source.places(0)[0][0, 0], source.places(0)[1][0, 0]
    assert f"r_λ {source.reward[row, column]:.3g}: {('first', 'second')[column]} {row}" in said


def test_no_text_of_a_pair_steers_the_terminal(data, capsys):
    source, escape = data(*DATASET), "\x1b]0;title\x07\x9b2J\u202e"
    responses = source.responses
    prompts = tuple(dataclasses.replace(each, text=escape + each.text) for each in responses.prompts.prompts)
    changed = dataclasses.replace(
        responses,
        prompts=dataclasses.replace(responses.prompts, prompts=prompts),
        texts=[[escape + text for text in row] for row in responses.texts],
    )
    dataclasses.replace(source, responses=changed).show_pairs()
    said = capsys.readouterr().out
    assert said.count("�]0;title��2J�") == 9 and said.replace("\n", "").isprintable()


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_no_other_widths_waste_less(count):
    needs = np.random.default_rng(count).integers(1, 60, 40)
    sizes = np.unique(-(-needs // 8) * 8)
    found = best_widths(needs, count)
    assert len(found) <= count and set(found) <= set(sizes) and found[-1] >= needs.max()

    def padded(widths) -> int:
        return sum(min(width for width in widths if width >= need) for need in needs)

    tries = itertools.combinations(sizes, min(count, len(sizes)))
    assert padded(found) == min(padded(widths) for widths in tries if widths[-1] == sizes[-1])

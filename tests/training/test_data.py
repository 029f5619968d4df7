"""What differs between MoCAN, PeCAN and the DPO baselines: the labels of a batch, and nothing else."""

import numpy as np
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import step_width
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.run.training import alignment
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


def test_batches_of_a_data_set_are_as_wide_as_they_need(data):
    source = data(*DATASET)
    widths = set()
    for step in range(source.steps):
        batch = source.batch(step)
        longest = int(batch.response_lengths.max())
        assert batch.responses.shape == (3, 2, step_width(longest))
        assert batch.prompts.shape[1] == step_width(int(batch.prompt_lengths.max()))
        rows, columns = source.places(step)
        for place in np.ndindex(3, 2):
            length = int(batch.response_lengths[place])
            stored = source.responses.tokens[rows[place[0], 0], columns[place]]
            np.testing.assert_array_equal(batch.responses[place][:length], stored[:length])
        widths.add(batch.responses.shape[2])
    assert source.steps == 6 and len(widths) > 1


def test_three_pairs_are_shown_with_their_scores(data, capsys):
    source = data(*DATASET)
    source.show_pairs()
    said = capsys.readouterr().out
    assert said.count("pair: prompt") == 3 and said.count("preferred, safe ") == 6
    row, column = source.places(0)[0][0, 0], source.places(0)[1][0, 0]
    assert f"r_λ {source.reward[row, column]:.3g}: {('first', 'second')[column]} {row}" in said


def test_widths():
    assert [step_width(n) for n in (1, 32, 33, 65, 97, 129, 200, 257, 400)] == [
        32, 32, 64, 96, 128, 192, 256, 384, 512,
    ]  # fmt: skip

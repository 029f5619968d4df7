"""The order of prompts and responses as a function of (seed, step)."""

from functools import partial

import numpy as np
import pytest

from cann_jax.training.batch_order import even_rows, items_of_step, order_of_epoch, steps_in
from cann_jax.training.preference_data import drawn_labels, extreme_responses, random_responses


def step_of(step, items, size, seed, lengths=None, together=1):
    given = {"items": items, "size": size, "seed": seed, "lengths": lengths, "together": together}
    order = partial(order_of_epoch, **given)
    return items_of_step(step, items, size, order)


@pytest.mark.parametrize(("prompts", "size"), [(12, 4), (10, 4), (3, 8)])
def test_every_prompt_is_seen_once_in_each_epoch(prompts, size):
    epochs = 3
    steps = [step_of(step, prompts, size, 0) for step in range(steps_in(epochs, prompts, size))]
    number, order = (np.concatenate(part) for part in zip(*steps, strict=True))
    for epoch in range(epochs):
        assert sorted(order[number == epoch]) == list(range(prompts))
        np.testing.assert_array_equal(order[number == epoch], order[epoch * prompts : (epoch + 1) * prompts])


def test_order_is_a_function_of_seed_and_step():
    def order(step, seed):
        return step_of(step, 50, 10, seed)[1].tolist()

    assert order(3, 0) == order(3, 0)
    assert len({tuple(order(step, seed)) for step in (3, 8) for seed in (0, 1)}) == 4  # 3 and 8: other epochs


def test_extremes_are_the_ends_of_each_row():
    reward = np.array([[3.0, 1, 2, 0, 5], [1, 1, 1, 1, 1]])
    assert extreme_responses(reward, 2).tolist() == [[4, 3], [0, 4]]
    assert extreme_responses(reward, 3).tolist() == [[4, 0, 3], [0, 1, 4]]
    assert extreme_responses(reward, 4).tolist()[0] == [4, 0, 1, 3]
    assert extreme_responses(reward, 5).tolist()[0] == [4, 0, 2, 1, 3]


def test_random_responses_are_without_replacement_and_new_in_each_epoch():
    drawn = np.array([[random_responses(n, 16, 4, 0, epoch) for n in range(200)] for epoch in range(3)])
    assert all(len(set(row)) == 4 for row in drawn.reshape(-1, 4))
    assert (drawn[0] != drawn[1]).any(-1).mean() > 0.9
    share = np.bincount(drawn.ravel(), minlength=16) / drawn.size
    assert np.abs(share - 1 / 16).max() < 0.02
    np.testing.assert_array_equal(drawn[1, 7], random_responses(7, 16, 4, 0, 1))


@pytest.mark.parametrize(("size", "together"), [(4, 2), (4, 1), (5, 1)])
def test_rows_of_similar_length_still_see_everything_once_and_in_another_order(size, together):
    count = 101 * size - 1
    lengths = np.random.default_rng(0).integers(10, 500, count)
    steps = [step_of(step, count, size, 0, lengths, together)[1] for step in range(202)]
    epochs = np.array(steps).reshape(2, -1)
    assert sorted(epochs.ravel()[:count]) == list(range(count))
    assert not np.array_equal(*epochs)
    shuffled = np.array([step_of(step, count, size, 0)[1] for step in range(101)])
    rows, others = (lengths[x].reshape(101, -1, together).sum(2) for x in (epochs[0], shuffled))
    waste, before = (1 - x.sum() / (x.shape[1] * x.max(1).sum()) for x in (rows, others))
    assert waste < 0.05 and before > 0.15
    # Lengths go up and down from step to step, not up within each window.
    assert 0.3 < (np.diff(rows.max(1)[:32]) > 0).mean() < 0.7


def test_even_rows():
    lengths = np.array([5, 9, 1, 7, 3, 8])
    assert even_rows(np.arange(6), lengths, 2).tolist() == [1, 2, 5, 4, 3, 0]  # 10, 11 and 12 together
    assert even_rows(np.arange(6), lengths, 1).tolist() == [2, 4, 0, 3, 5, 1]


def test_a_label_is_drawn_once_whatever_group_it_comes_in():
    random = np.random.default_rng(0)
    reward = random.normal(size=(300, 6))
    every = np.tile(np.arange(6), (300, 1))
    probabilities = 1 / (1 + np.exp(reward[:, None, :] - reward[:, :, None]))
    whole = drawn_labels(probabilities, np.arange(300), every, 7)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    assert set(np.unique([whole[:, i, j] for i, j in pairs])) == {0, 1}
    assert all((whole[:, i, j] + whole[:, j, i] == 1).all() for i, j in pairs)
    for columns in ([4, 1], [1, 4, 2]):
        chosen = np.tile(columns, (300, 1))
        part = drawn_labels(probabilities[:, columns][:, :, columns], np.arange(300), chosen, 7)
        np.testing.assert_array_equal(part, whole[:, columns][:, :, columns])
    draws = np.mean([drawn_labels(probabilities, np.arange(300), every, seed) for seed in range(40)], axis=0)
    assert np.abs(draws[:, 0, 5] - probabilities[:, 0, 5]).mean() < 0.1

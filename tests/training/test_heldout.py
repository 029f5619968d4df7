"""Prompts that are kept from training: which they are, and what is measured on them."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from cann_jax.config.training import AlignConfig, Supervision
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.run.training import Training, preference_data
from cann_jax.training.batching import Batching
from cann_jax.training.heldout import Heldout, heldout_rows, slope_error, standard_error
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.reference import with_reference
from tests.builders.training import make_spec

PROMPTS, RESPONSES, GROUP, WANTED = 24, 5, 3, 5


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(str(number), text) for number, text in enumerate(texts)]


def test_a_quarter_at_most_and_by_the_seed_alone():
    every = prompts(*(f"prompt {number}" for number in range(40)))
    assert len(heldout_rows(every, 8, 0)) == 8 and len(heldout_rows(every, 16, 0)) == 10
    assert len(heldout_rows(every[:3], 16, 0)) == 0
    np.testing.assert_array_equal(heldout_rows(every, 8, 0), heldout_rows(every, 8, 0))
    assert set(heldout_rows(every, 8, 0)) != set(heldout_rows(every, 8, 1))
    assert set(heldout_rows(every, 4, 0)) < set(heldout_rows(every, 8, 0))


REPEATED = prompts(*(f"prompt {number % 8}" for number in range(20)))


def test_pairs_of_one_prompt_are_kept_together():
    rows = heldout_rows(REPEATED, 2, 3)
    kept = {REPEATED[row].text for row in rows}
    assert len(kept) == 2
    assert [row for row in range(20) if REPEATED[row].text in kept] == rows.tolist()


def test_pairs_of_one_prompt_that_are_cut_to_different_lengths_are_kept_together():
    """Each leaves room for its own responses."""
    every = [
        dataclasses.replace(prompt, text=prompt.text[n % 3 :], cut_from=prompt)
        for n, prompt in enumerate(REPEATED)
    ]
    np.testing.assert_array_equal(heldout_rows(every, 2, 3), heldout_rows(REPEATED, 2, 3))


def test_part_of_the_prompts_has_part_of_those_that_are_kept():
    every = prompts(*(f"prompt {number}" for number in range(40)))
    kept = {every[row].text for row in heldout_rows(every, 8, 0)}
    found = {every[20 + row].text for row in heldout_rows(every[20:], 8, 0, among=every)}
    assert found == kept & {prompt.text for prompt in every[20:]}


def data(loss: str = "dpo", selection: str = "random", **changes) -> tuple[Training, PreferenceData]:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 7, (PROMPTS, RESPONSES)).astype(np.int32)
    encoded = EncodedPrompts(
        tuple(prompts(*(f"prompt {number}" for number in range(PROMPTS)))),
        tuple(random.integers(0, 300, random.integers(1, 9)).astype(np.int32) for _ in range(PROMPTS)),
    )
    responses = Responses(
        prompts=encoded,
        tokens=random.integers(0, 300, (PROMPTS, RESPONSES, 7)).astype(np.int32),
        lengths=lengths,
        stopped=np.ones((PROMPTS, RESPONSES), bool),
        logps=np.full((PROMPTS, RESPONSES), np.nan, np.float32),
        texts=[["made up"] * RESPONSES] * PROMPTS,
    )
    batching = Batching(0, 3, 4, GROUP, selection=selection, **changes)
    settings = AlignConfig(heldout_prompts=WANTED)
    training = Training("align", settings, Supervision(True, None), batching, loss, 0.3)
    reward = random.normal(size=(PROMPTS, RESPONSES)).astype(np.float32)
    return training, preference_data(training, responses, reward)


@pytest.mark.parametrize("ragged", [False, True])
def test_no_step_takes_them_and_all_their_responses_are_measured(ragged):
    _, found = data(ragged=ragged)
    taken = np.concatenate([found.places(step)[0][:, 0] for step in range(found.steps)])
    assert found.steps == -(-3 * (PROMPTS - WANTED) // 4)
    assert set(taken) == set(range(PROMPTS)) - set(found.heldout) and len(found.heldout) == WANTED
    counts = np.unique(taken, return_counts=True)[1]
    assert counts.min() >= 3 and counts.max() <= 4
    seen = {(row[0], column) for rows, columns in found.other_places()
            for row, places in zip(rows, columns, strict=True) for column in places}  # fmt: skip
    assert seen == {(row, column) for row in found.heldout for column in range(RESPONSES)}
    assert {rows.shape + columns.shape for rows, columns in found.other_places()} == {(4, 1, 4, GROUP)}


@pytest.fixture
def heldout(no_dropout, tmp_path):
    """Make what measures the tiny model, and weights that have moved."""
    graph, weights, frozen = no_dropout
    moved = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), weights)

    def heldout(**changes) -> tuple[Heldout, object, object]:
        training, found = data(**changes)
        spec = dataclasses.replace(make_spec(graph), loss=training.loss)
        found = with_reference(spec, weights, frozen, found, epath.Path(tmp_path))
        return Heldout(spec, found, frozen, training.scale), weights, moved

    return heldout


def test_the_reference_is_where_it_begins(heldout):
    found, weights, _ = heldout()
    logps = found.logps(weights)
    np.testing.assert_array_equal(logps, found.reference)
    start = found.losses(logps)
    np.testing.assert_allclose(start, np.log(2), rtol=1e-6)
    measured = found.measures(logps, start)
    assert measured["heldout_deviation"] == 0 and measured["heldout_loss_error"] == 0
    assert np.isnan(measured["heldout_slope"]) and np.isnan(measured["heldout_correlation"])
    not_read = found.data.reference[np.setdiff1d(np.arange(PROMPTS), found.data.heldout)]
    assert not np.isnan(not_read).all()  # what steps read is there too


def test_log_probs_kept_of_other_responses_are_not_taken(heldout):
    """Other labels choose other extremes; their shards, left in the folder, were once read as these."""
    first = heldout(selection="random")[0].data
    found = heldout(selection="extremes")[0]
    assert any((first.places(n)[1] != found.data.places(n)[1]).any() for n in range(first.steps))
    known = ~np.isnan(found.data.reference) & ~np.isnan(first.reference)
    np.testing.assert_allclose(found.data.reference[known], first.reference[known], rtol=1e-6)


@pytest.mark.parametrize("loss", ["dpo", "listwise"])
@pytest.mark.parametrize("selection", ["random", "extremes"])
def test_measures_by_hand(heldout, loss, selection):
    found, _, moved = heldout(loss=loss, selection=selection)
    logps, start = found.logps(moved), found.losses(found.reference)
    measured = found.measures(logps, start)
    rows, reward = found.data.heldout, found.data.reward[found.data.heldout].astype(np.float64)
    ratios, losses, right = (logps - found.reference).astype(np.float64), [], []
    for place in range(WANTED):
        if selection == "extremes":
            order = np.argsort(-reward[place], kind="stable")
            chosen = np.concatenate([order[:2], order[-1:]])
        else:
            chosen = np.random.default_rng([0, 0, int(rows[place]), 1]).permutation(RESPONSES)[:GROUP]
        ratio, r = ratios[place, chosen], reward[place, chosen]
        pairs = [(i, j) for i in range(GROUP) for j in range(i + 1, GROUP)]
        right += [(ratio[i] > ratio[j]) == (r[i] > r[j]) for i, j in pairs]
        if loss == "listwise":
            w = np.exp(r / 0.3) / np.exp(r / 0.3).sum()
            losses.append(-np.sum(w * (ratio - np.log(np.exp(ratio).sum()))))
        else:
            m = np.array([0.3 * (ratio[i] - ratio[j]) for i, j in pairs])
            p = np.array([1 / (1 + np.exp(r[j] - r[i])) for i, j in pairs])
            losses.append(np.mean(p * np.log1p(np.exp(-m)) + (1 - p) * np.log1p(np.exp(m))))
    centred, target = (x - x.mean(1, keepdims=True) for x in (ratios, reward / 0.3))
    product, square = np.sum(centred * target), np.sum(centred**2)
    assert measured["heldout_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    change = np.array(losses) - (np.log(GROUP) if loss == "listwise" else np.log(2))
    assert measured["heldout_loss_error"] == pytest.approx(change.std(ddof=1) / np.sqrt(WANTED), rel=1e-4)
    assert measured["heldout_accuracy"] == pytest.approx(np.mean(right))
    assert measured["heldout_slope"] == pytest.approx(product / square, rel=1e-4)
    expected = product / np.sqrt(square * np.sum(target**2))
    assert measured["heldout_correlation"] == pytest.approx(expected, rel=1e-4)
    assert measured["heldout_deviation"] == pytest.approx(np.sqrt(np.mean(centred**2)), rel=1e-4)


def test_labels_of_people_have_a_loss_and_an_accuracy_alone(heldout):
    found, _, moved = heldout()
    human = dataclasses.replace(found, scale=None)
    measured = human.measures(found.logps(moved), found.losses(found.reference))
    assert measured.keys() == {"heldout_loss", "heldout_loss_error", "heldout_accuracy"}


@pytest.mark.parametrize(
    "loss, temperature, label, scale",
    [("dpo", 1.0, None, 0.3), ("dpo", 2.0, None, 0.6), ("listwise", 1.0, None, 0.3), ("ipo", 1.0, None, None),
     ("regression", 1.0, None, 0.3), ("dpo", 0.0, "safer", None)],
)  # fmt: skip
def test_what_log_ratios_are_compared_with(loss, temperature, label, scale):
    training, _ = data(loss=loss, label_temperature=temperature)
    training = dataclasses.replace(training, supervision=Supervision(label is None, label))
    assert training.scale == (scale if scale is None else pytest.approx(scale))


def test_errors_are_those_of_repeated_draws():
    """400 tables of 40 prompts, each with a slope of its own."""
    random, slopes, errors = np.random.default_rng(0), [], []
    for _ in range(400):
        ratios = random.normal(size=(40, 8)) * random.lognormal(0, 0.5, (40, 1))
        ratios -= ratios.mean(1, keepdims=True)
        own = random.normal(0.6, 0.5, (40, 1))  # slope of the prompt
        targets = own * ratios + random.normal(size=(40, 8))
        slope = np.sum(ratios * targets) / np.sum(ratios**2)
        slopes.append(slope)
        errors.append(slope_error(ratios, targets, slope, np.arange(40)))
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)
    one = np.zeros(3, int)
    assert np.isnan(slope_error(ratios[:3], targets[:3], 1.0, one)) and np.isnan(standard_error(one, one))


def test_pairs_of_one_prompt_are_one_piece_of_evidence(heldout):
    """Each prompt with its change of loss three times over tells what it does once."""
    random = np.random.default_rng(0)
    values, ratios, targets = random.normal(size=8), random.normal(size=(8, 2)), random.normal(size=(8, 2))
    own, thrice = np.arange(8), np.repeat(np.arange(8), 3)
    once = standard_error(values, own)
    assert once == pytest.approx(values.std(ddof=1) / np.sqrt(8))
    assert standard_error(values[thrice], thrice) == pytest.approx(once)
    once = slope_error(ratios, targets, 0.7, own)
    assert slope_error(ratios[thrice], targets[thrice], 0.7, thrice) == pytest.approx(once)
    found, _, moved = heldout()
    encoded = found.data.responses.prompts
    same = dataclasses.replace(encoded, prompts=tuple(prompts(*(["Why?", "why"] * (PROMPTS // 2)))))
    shared = dataclasses.replace(
        found,
        data=dataclasses.replace(
            found.data, responses=dataclasses.replace(found.data.responses, prompts=same)
        ),
    )
    measured = shared.measures(found.logps(moved), found.losses(found.reference))
    assert np.isnan(measured["heldout_loss_error"]) and np.isnan(measured["heldout_slope_error"])

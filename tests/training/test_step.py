"""The step: ln 2 at the start, accumulation, gradients against torch, exact resumption."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cann_jax.models.export.folder import export_folder
from cann_jax.training.checkpoints import Checkpoints, load_weights, save_weights
from cann_jax.training.step import TrainState, forward, start, train_step
from tests.builders.training import make_spec

SEED = jax.random.key(7)


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(first, second) -> None:
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def referenced(parts, batch):
    """The batch with the reference's log-probs."""
    graph, weights, frozen = parts
    return batch._replace(reference_logps=forward(make_spec(graph), weights, frozen, batch))


def test_step_zero_is_ln_2_with_margins_of_exactly_zero(parts, referenced, fresh):
    """Dropout is on and changes nothing: the adapters' B is zero."""
    graph, _, frozen = parts
    spec = make_spec(graph)
    _, metrics = train_step(spec, start(spec, fresh), frozen, referenced, SEED)
    assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    for name in ("margin_mean", "margin_p10", "margin_p90", "log_ratio", "saturated"):
        assert float(metrics[name]) == 0, name
    assert float(metrics["gradient_norm"]) > 1e-3
    assert np.abs(referenced.reference_logps).min() > 1


def test_margins_are_near_zero_at_another_batch_shape(parts, referenced, fresh):
    graph, _, frozen = parts
    spec = make_spec(graph, 4)
    _, metrics = train_step(spec, start(spec, fresh), frozen, referenced, SEED)
    scale = float(np.abs(referenced.reference_logps).max())
    assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert abs(float(metrics["margin_p90"])) < 1e-6 * scale


def moved(weights):
    """Adapters that do something, so that margins are not zero."""
    return jax.tree.map(
        lambda x: x + 0.03 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), weights
    )


def test_accumulation_changes_nothing(no_dropout, batch):
    """One micro-batch of 8 prompts and 8 of one: the same loss, gradient norm and next weights."""
    graph, weights, frozen = no_dropout
    batch = batch._replace(reference_logps=forward(make_spec(graph), weights, frozen, batch))
    results = []
    for accumulation in (1, 8):
        spec = make_spec(graph, accumulation)
        state = start(spec, moved(weights))._replace(step=jnp.int32(2))
        results.append(train_step(spec, state, frozen, batch, SEED))
    (whole, measured), (split, measured_split) = results
    assert abs(float(measured["margin_p90"])) > 0.01
    for name in measured:
        np.testing.assert_allclose(measured[name], measured_split[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(leaves(whole.optimizer), leaves(split.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * max(1e-3, np.abs(a).max()))


def test_dropout_follows_seed_and_step(parts, referenced):
    graph, weights, frozen = parts
    spec = make_spec(graph)

    def loss(seed: int, step: int) -> float:
        state = start(spec, moved(weights))._replace(step=jnp.int32(step))
        return float(train_step(spec, state, frozen, referenced, jax.random.key(seed))[1]["loss"])

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(0, 2), loss(1, 1)}) == 3


def test_the_state_is_donated(parts, referenced, fresh):
    graph, _, frozen = parts
    spec = make_spec(graph)
    state = start(spec, fresh)
    after, _ = train_step(spec, state, frozen, referenced, SEED)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.weights))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after.weights, frozen)))


def test_six_steps_equal_three_and_three_after_a_restore(parts, referenced, tmp_path):
    """Bit for bit, through files, although every saved state is eaten by the step after it."""
    graph, weights, frozen = parts
    spec = make_spec(graph)

    def run(state: TrainState, steps: int, checkpoints: Checkpoints | None = None) -> TrainState:
        for _ in range(steps):
            state, _ = train_step(spec, state, frozen, referenced, SEED)
            if checkpoints is not None:
                checkpoints.save(state)
        return state

    straight = run(start(spec, copied(weights)), 6)
    with Checkpoints(tmp_path, keep=2, every=1) as checkpoints:
        run(start(spec, copied(weights)), 3, checkpoints)
    with Checkpoints(tmp_path, keep=2, every=1) as checkpoints:
        restored = checkpoints.restore(start(spec, copied(weights)))
        assert int(restored.step) == 3
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]
        resumed = run(restored, 3)
    assert int(resumed.step) == 6
    assert_equal(resumed, straight)
    assert any(
        np.abs(a - b).max() > 1e-3 for a, b in zip(leaves(resumed.weights), leaves(weights), strict=True)
    )


def test_no_checkpoint_yet(parts, tmp_path):
    graph, weights, _ = parts
    with Checkpoints(tmp_path, keep=1, every=1) as checkpoints:
        assert checkpoints.restore(start(make_spec(graph), weights)) is None


def test_weights_alone_round_trip(parts, tmp_path):
    _, weights, _ = parts
    save_weights(tmp_path / "weights", moved(weights))
    assert_equal(load_weights(tmp_path / "weights", weights), moved(weights))


def test_a_loss_that_is_not_finite_is_visible(parts, referenced, fresh):
    graph, _, frozen = parts
    spec = make_spec(graph)
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan), fresh)
    _, metrics = train_step(spec, start(spec, broken), frozen, referenced, SEED)
    assert not np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize(
    "loss, expected", [("ipo", 1 / (4 * 0.3**2)), ("regression", None), ("listwise", math.log(3))]
)
def test_other_losses_begin_where_they_should_and_fall(no_dropout, batch, loss, expected):
    """At ratios of zero IPO is 1/(4β²), the regression the mean of (Δr/β)², the listwise loss ln 3."""
    graph, weights, frozen = no_dropout
    spec = dataclasses.replace(make_spec(graph, loss=loss), optimizer=optax.sgd(1e-3))
    batch = batch._replace(reference_logps=forward(spec, weights, frozen, batch))
    if expected is None:
        rewards = np.asarray(batch.rewards)
        pairs = [(rewards[:, i] - rewards[:, j]) / 0.3 for i, j in ((0, 1), (0, 2), (1, 2))]
        expected = np.mean(np.square(pairs))
    state, losses = start(spec, copied(weights)), []
    for _ in range(3):
        state, metrics = train_step(spec, state, frozen, batch, SEED)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[2] < losses[1] - 1e-4 < losses[0] - 2e-4


def torch_loss_and_gradients(folder, batch, beta: float):
    """DPO with soft labels, written out pair by pair on torch, and its gradients by Hugging Face name."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logps = {}
    for b, r in np.ndindex(8, 3):
        prompt = np.asarray(batch.prompts)[b, : batch.prompt_lengths[b]]
        response = np.asarray(batch.responses)[b, r, : batch.response_lengths[b, r]]
        ids = torch.tensor(np.concatenate([prompt, response])[None], dtype=torch.long)
        scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps[b, r] = scores.gather(1, ids[0, len(prompt) :, None]).sum()
    losses = []
    for b in range(8):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            ratio = [logps[b, k] - float(batch.reference_logps[b, k]) for k in (i, j)]
            margin, label = beta * (ratio[0] - ratio[1]), float(batch.labels[b, i, j])
            sigmoid = torch.nn.functional.logsigmoid
            losses.append(-label * sigmoid(margin) - (1 - label) * sigmoid(-margin))
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss), {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_loss_and_gradient_equal_torch(no_dropout, batch, tmp_path, tiny_folder):
    """Full fine-tuning of a model that has moved, by an optimizer that adds the gradient to the weights."""
    from cann_jax.models.files.load import load_decoder
    from cann_jax.models.files.model_files import open_model

    graph, weights, frozen = no_dropout
    batch = batch._replace(reference_logps=forward(make_spec(graph), weights, frozen, batch))
    merged = nnx.merge(graph, moved(weights), frozen)
    files = open_model(str(tiny_folder))
    export_folder(merged, files, tmp_path)
    full, every, nothing = nnx.split(load_decoder(open_model(str(tmp_path)), "float32"), nnx.Param, ...)
    spec = dataclasses.replace(make_spec(full), optimizer=optax.trace(decay=0.0))
    before = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(every)}
    after, metrics = train_step(spec, start(spec, every), nothing, batch, SEED)
    loss, gradients = torch_loss_and_gradients(tmp_path, batch, 0.3)
    assert abs(loss - math.log(2)) > 1e-3
    assert float(metrics["loss"]) == pytest.approx(loss, abs=1e-5)
    changed = {path: np.asarray(leaf[...]) - before[path] for path, leaf in nnx.to_flat_state(after.weights)}
    pairs = {
        ("embedding",): [gradients["model.embed_tokens.weight"]],
        ("final_norm", "scale"): [gradients["model.norm.weight"]],
    }
    for ours, theirs in (("q_proj", "self_attn.q_proj"), ("o_proj", "self_attn.o_proj")):
        pairs["layers", "attention", ours, "kernel"] = [
            gradients[f"model.layers.{layer}.{theirs}.weight"].T for layer in range(3)
        ]
    for path, expected in pairs.items():
        got = changed[path] if path[0] == "layers" else changed[path][None]
        np.testing.assert_allclose(got, np.stack(expected), atol=2e-4 * np.abs(expected).max())
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-3)

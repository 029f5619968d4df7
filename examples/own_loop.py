"""Use the pure functions in your own loop: scores in, multipliers out, labels for any DPO trainer.

The policy is a table of logits over six fixed responses to each of 64 prompts, so that the whole alignment
takes seconds and the improvement that was predicted can be compared with the one reached.
"""

import jax
import jax.numpy as jnp
import optax

from cann_jax import Scores, dpo_loss, preference_probability, pseudo_reward, solve_dual

BETA, MARGIN, PROMPTS, RESPONSES = 0.5, 0.4, 64, 6
State = tuple[jax.Array, optax.OptState]  # logits and the state of the optimizer


def sample_scores(key: jax.Array) -> Scores:
    """Return a reward and a safety score that conflict; the reference is uniform."""
    reward, noise = jax.random.normal(key, (2, PROMPTS, RESPONSES))
    return Scores(reward, (-0.5 * reward + 0.87 * noise)[..., None])


def pair_loss(logits: jax.Array, first: jax.Array, second: jax.Array, label: jax.Array) -> jax.Array:
    """Return the mean DPO loss over one pair of responses for each prompt; the reference margin is 0 here."""
    logp, rows = jax.nn.log_softmax(logits), jnp.arange(PROMPTS)
    margin = logp[rows, first] - logp[rows, second]
    return jnp.mean(dpo_loss(margin, 0.0, label, BETA))


def main() -> tuple[float, float]:
    """Align the table; return the predicted and the reached improvement of the constraint."""
    scores = sample_scores(jax.random.key(0))
    solution = solve_dual(scores, MARGIN, BETA)
    target = pseudo_reward(scores, solution.multipliers)
    optimizer = optax.adam(0.05)
    logits = jnp.zeros((PROMPTS, RESPONSES))

    @jax.jit
    def step(carry: State, key: jax.Array) -> tuple[State, None]:
        logits, state = carry
        first, second = jax.random.randint(key, (2, PROMPTS), 0, RESPONSES)
        rows = jnp.arange(PROMPTS)
        label = preference_probability(target[rows, first], target[rows, second])
        updates, state = optimizer.update(jax.grad(pair_loss)(logits, first, second, label), state)
        return (optax.apply_updates(logits, updates), state), None

    keys = jax.random.split(jax.random.key(1), 3000)
    (logits, _), _ = jax.lax.scan(step, (logits, optimizer.init(logits)), keys)
    level = jnp.mean(jnp.sum(jax.nn.softmax(logits) * scores.constraints[..., 0], axis=-1))
    predicted, reached = float(solution.predicted_improvement[0]), float(level - solution.baseline[0])
    print(
        f"lambda* {solution.multipliers[0]:.3f}, margin {MARGIN}: "
        f"predicted {predicted:.3f}, reached {reached:.3f}"
    )
    return predicted, reached


if __name__ == "__main__":
    main()

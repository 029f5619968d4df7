"""How much higher one policy's responses score than another's, from draws of both and their log-probs.

The difference of two sample means has the noise of both, even where the policies hardly differ. Their
log-probs are known, so that every response, whoever drew it, can speak for both (importance sampling from the
mixture, the balance heuristic of Veach and Guibas 1995):

    E_new[g] − E_old[g] = E_old[g·t] + E_new[g·t],    t = (π_new − π_old)/(π_new + π_old) = tanh(ℓ/2)

Two equal policies have t = 0 and no noise at all; where they have nothing in common it is the difference of
the means. What is known to have the mean 0 serves as control variates: the difference of both estimates, and,
as E_old[t] + E_new[t] = 0, a prompt's level times t, if other responses tell it. On 576 prompts × 2 responses
of the quickstart (KL .48 and .82 nats) the squared error was a third and a half of that of the difference of
the means, and for its reward a quarter and a third.
"""

from typing import NamedTuple

import numpy as np

ENOUGH = 20  # prompts; below, the control variates' coefficients would fit the noise
# Prompts; below, what that fit takes off the gain (a tenth of it at 20) and off its error is put back. At 20
# and 40 prompts, 95 % intervals held the truth in 84 to 93 % of draws without that, in 89 to 96 % with it.
FEW = 128
ROUNDING = 1e-9


class Drawn(NamedTuple):
    """What one policy drew, K responses to each of N prompts.

    Attributes:
        scores: (N, K).
        log_ratios: (N, K), ℓ = log π_new/π_old, nats, of the distributions that were drawn from.
    """

    scores: np.ndarray
    log_ratios: np.ndarray


def improvements(old: Drawn, new: Drawn) -> np.ndarray:
    """Return by prompt (N,) how much higher the new policy scores on average than the old one.

    Their mean estimates that over all prompts, without bias but for a share of about 1/N, which the jackknife
    takes away where prompts are few. Both policies draw equally many responses, and may share their random
    numbers, response by response.
    """
    scores = np.stack([old.scores, new.scores]).astype(np.float64)
    ratios = np.stack([old.log_ratios, new.log_ratios]).astype(np.float64)
    count = scores.shape[1]
    if count < ENOUGH:
        return np.asarray(scores[1].mean(1) - scores[0].mean(1))
    found = _fitted(scores, ratios)
    if count >= FEW:
        return found
    without = [_fitted(np.delete(scores, i, 1), np.delete(ratios, i, 1)).mean() for i in range(count)]
    return np.asarray(count * found.mean() - (count - 1) * np.array(without))


def _fitted(scores: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Return the improvements (N,) of both policies' scores (2, N, K), the coefficients fitted to them."""
    plain = scores[1].mean(1) - scores[0].mean(1)
    signs = np.tanh(ratios / 2)
    above = scores - scores.mean()
    told = _by_prompt(above * signs)
    controls = [told - plain]
    if scores.shape[2] > 1:
        # A level of the prompt, by all other responses; those of the same index may share random numbers.
        others = (above.sum(2, keepdims=True) - above).mean(0) / (scores.shape[2] - 1)
        controls.append(_by_prompt(others * signs))
    return _controlled(told, np.stack(controls, axis=1))


def _by_prompt(values: np.ndarray) -> np.ndarray:
    """Return (N,), the sum over both policies of their means over a prompt's responses (2, N, K)."""
    return np.asarray(values.sum(0).mean(1))


def _controlled(values: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return values (N,) less what controls (N, c), whose expectation is 0, tell of their noise."""
    # Rounding alone is no control: policies with nothing in common leave no other.
    controls = controls[:, controls.std(0) > ROUNDING * values.std()]
    coefficients = np.linalg.lstsq(controls - controls.mean(0), values - values.mean())[0]
    return np.asarray(values - controls @ coefficients)

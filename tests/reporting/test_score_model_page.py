"""What the report of a reward or cost model says of its accuracy."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from cann_jax.reporting.score_model_page import score_model_verdicts
from cann_jax.training.calibration import accuracy, sign_accuracy

SAFE = np.repeat([1, 0], [85, 15])
CONSTANT, TELLING = np.full(100, -0.3), np.where(SAFE == 1, -1.0, 1.0)


@pytest.mark.parametrize(
    "costs, kind, said",
    [
        (CONSTANT, "undecided", "85.0% [76.7%, 90.7%] of 100 held-out responses on the right side of zero: "
         'perhaps no better than always "safe", which has 85.0%'),
        (TELLING, "holds", 'better than always "safe", which has 85.0%'),
        (-TELLING, "fails", 'worse than always "safe", which has 85.0%'),
    ],
)  # fmt: skip
def test_a_sign_is_judged_against_always_saying_the_same(costs, kind, said):
    sign = asdict(sign_accuracy(costs, SAFE, 0.95, range(100)))
    results = {"accuracy": asdict(accuracy(np.ones(9), 0.95)), "sign": sign}
    pairs, found = score_model_verdicts(SimpleNamespace(results=results))
    assert found.kind == kind and found.text.endswith(said)
    assert pairs.text.endswith("of 9 held-out pairs in the order that people gave: better than chance")

"""What an analysis compiles, which is what a user of a small table waits for."""

import jax
import numpy as np

from cann_jax.analysis.analyse import analyse
from cann_jax.analysis.reach import Features
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint
from cann_jax.runtime.compilation import compiled, keep_compilations

MOST = 36  # 29 were counted; 75 when eager operations on data of the host were programs of their own


def test_an_analysis_compiles_few_programs():
    draw = np.random.default_rng(0).normal
    safe, values = draw(size=(20, 4)), draw(size=(20, 4, 6))
    problem = prepare(draw(size=(20, 4)), {"safe": safe}, [Constraint("safe", margin=0.1)])
    values[..., 0] += 2 * safe  # something to tell, so that the forecast is made
    keep_compilations()
    jax.clear_caches()
    before = compiled()[0]
    found = analyse(problem, 1.0, features=Features(values, folds=4), method="lbfgsb")
    assert found.reach is not None and found.reach.forecast is not None and found.intervals is not None
    assert 0 < compiled()[0] - before <= MOST

"""What a solution tells: nothing of a policy where no policy meets the margins."""

import dataclasses

import numpy as np

from cann_jax.core.feasibility import Feasible
from cann_jax.core.solver.solution import DualSolution

OF_POLICY = (
    *("value", "slack", "predicted_reward", "predicted_constraints"),
    *("kl", "duality_gap", "effective_sample_size"),
)


def known(solution: DualSolution) -> DualSolution:
    """Return the solution on the host, with NaN for what is about its policy where margins are out of reach.

    What stands there belongs to the point at which the solver gave up, and was read as a prediction.
    """
    out = np.asarray(solution.feasible) == Feasible.NO

    def blank(values: np.ndarray) -> np.ndarray:
        return np.where(out.reshape(out.shape + (1,) * (values.ndim - out.ndim)), np.float32("nan"), values)

    return dataclasses.replace(
        solution, **{name: blank(np.asarray(getattr(solution, name))) for name in OF_POLICY}
    )

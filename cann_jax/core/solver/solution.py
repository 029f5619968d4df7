"""The solution of a dual problem, and the statistics at it that certify it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, is_concrete
from cann_jax.core.display import display
from cann_jax.core.feasibility import Feasible, verdict
from cann_jax.core.objective import Objective, natural_residual
from cann_jax.core.scores import constraint_names

TOLERANCE = 1e-5


class Minimum(NamedTuple):
    """Where a solver ended: θ ``(m,)``, its evaluations, and whether Newton's method took over from it."""

    tilt: Array
    evaluations: Array
    fell_back: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DualSolution:
    """The multipliers and what the sample predicts of the policy they define; a pytree.

    Attributes:
        multipliers: λ* ``(m,)``; +∞ along the directions that prove infeasible margins.
        value: D(λ*), in the reward's units.
        slack: ``(m,)``, ∇D: predicted improvement over the reference, less the margin.
        predicted_reward: E_{π_λ*}[r].
        predicted_constraints: ``(m,)``, E_{π_λ*}[g_j] (a level; less ``baseline`` it is the improvement).
        baseline: ``(m,)``, E_ref[g_j].
        kl: E_x KL(π_λ* ‖ π_ref) on the sample, in nats; at most ln K.
        duality_gap: D(λ*) − (E r − β·KL), 0 at the optimum (strong duality), in the reward's units.
        kkt_residual: max_j |min(θ_j, ∂_j)| recomputed at the answer, in units of the scores' spread.
        converged: Whether the residual is within tolerance and the margins are within reach.
        feasible: A ``Feasible`` code: YES, NO or UNDETERMINED.
        effective_sample_size: Mean over prompts of 1/Σw², between 1 and K.
        iterations: Evaluations of the (whole) table that the solver spent.
        fell_back: Whether L-BFGS-B stopped short of the tolerance, and Newton's method gave the answer.
        spread: ``(m,)``, root mean square deviation of g_j within a prompt.
        names: The m constraints' names where the scores had them; transformations leave them out.

    Where the margins are infeasible, everything but ``multipliers`` belongs to the last finite point.
    """

    multipliers: Array
    value: Array
    slack: Array
    predicted_reward: Array
    predicted_constraints: Array
    baseline: Array
    kl: Array
    duality_gap: Array
    kkt_residual: Array
    converged: Array
    feasible: Array
    effective_sample_size: Array
    iterations: Array
    fell_back: Array
    spread: Array
    names: ClassVar[tuple[str, ...] | None] = None  # no field, so that results and JAX's trees have none

    def named(self, names: tuple[str, ...] | None) -> "DualSolution":
        """Return the solution with its constraints' names."""
        if names is None:
            return self
        found = dataclasses.replace(self)
        object.__setattr__(found, "names", names)
        return found

    def __repr__(self) -> str:
        """Return λ* and what is predicted in one line; of many solutions, how many there are."""
        if not is_concrete(self):
            return f"DualSolution(multipliers {getattr(self.multipliers, 'shape', self.multipliers)})"
        multipliers, converged = np.asarray(self.multipliers), np.asarray(self.converged)
        if multipliers.ndim > 1:
            count = f"converged in {converged.sum()} of {converged.size}"
            return f"DualSolution(multipliers {multipliers.shape}, {count})"
        names = constraint_names(len(multipliers), self.names)
        parts = [f"λ* of {name} {value:.4g}" for name, value in zip(names, multipliers, strict=True)]
        parts += [f"feasible: {Feasible(int(self.feasible)).word}"]
        if converged:
            parts += [f"reward {float(self.predicted_reward):.4g}", f"KL {float(self.kl):.4g} nats"]
        return f"DualSolution({', '.join(parts)}{'' if converged else ', not converged'})"

    @property
    def predicted_improvement(self) -> Array:
        """``(m,)``: E_{π_λ*}[g_j] − E_ref[g_j]."""
        return self.predicted_constraints - self.baseline

    def to_frame(self, names: Sequence[str] | None = None) -> Any:
        """Return a pandas ``DataFrame`` with a row for each constraint, by ``names``, its own, or by number.

        What is the whole solution's stands in each row. Solutions with a leading axis, as ``dual_curve``
        returns them, have a row for each point and constraint.
        """
        return display("frames:solution_frame")(self, names)

    def _repr_html_(self) -> str | None:
        return cast(str | None, display("html:solution_html")(self))


def certify_point(objective: Objective, found: Minimum, tolerance: float) -> DualSolution:
    """Return the solution where a solver ended, in the user's units.

    Every number in it is recomputed at the point; no solver's own report is used.
    """
    constants, tilt = objective.constants, found.tilt
    seen = objective.describe(tilt)
    beta, spread = constants.beta, constants.spreads.constraints
    value = beta * (seen.value - constants.log_count) + constants.mean_reward
    reward = seen.reward + constants.mean_reward
    slack = seen.gradient * spread
    residual = natural_residual(tilt, seen.gradient)
    code = verdict(constants, tilt, seen, tolerance)
    infinite = (code == Feasible.NO) & (tilt > 1e-3 * jnp.max(tilt))
    return DualSolution(
        multipliers=jnp.where(infinite, jnp.inf, tilt * constants.multiplier_unit),
        value=value,
        slack=slack,
        predicted_reward=reward,
        predicted_constraints=slack + constants.baseline + constants.margins,
        baseline=constants.baseline,
        kl=seen.kl,
        duality_gap=value - (reward - beta * seen.kl),
        kkt_residual=residual,
        converged=(residual <= tolerance) & (code == Feasible.YES),
        feasible=code,
        effective_sample_size=seen.effective_sample_size,
        iterations=found.evaluations,
        fell_back=found.fell_back,
        spread=spread,
    )

"""Gradient descent with steps of no size: the path of a policy in continuous time."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are loaded when they are used: most training needs no such path
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, Int, Real

from didsim import _checks
from didsim.fixed_points.task import in_dtype, on_device
from didsim.information import LogProbsLike
from didsim.objectives.objective import Objective, check_lengths
from didsim.preferences.problem import Problem, check_over


def gradient_flow(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    times: Real[ArrayLike, " times"] | Sequence[float],
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    start: LogProbsLike | None = None,
    tolerance: float = 1e-8,
) -> Float[Array, "times sequences"]:
    """The policy at given times of the gradient flow of an objective, in the logits of all sequences.

        dθ/dt = −∇_θ L(softmax(θ)),    θ(0) = log start

    Gradient descent with a small rate `η` is at time `η · steps`. So the flow shows what early stopping does,
    without a rate. A flow that begins at the reference, stopped at time `t`, is near the minimiser with a
    penalty `‖r‖² / (2 t β²)` on the rewards `r = β (θ − log reference)`, since `dr/dt = −β² ∇_r L`: for a
    quadratic loss of curvature `c` in `r`, the two have come `1 − e^(−c β² t)` and `c β² t / (1 + c β² t)` of
    the way. (Derived here; compare Suggala, Prasad and Ravikumar, "Connecting optimization and
    regularization paths", 2018.)

    Args:
        objective: what is minimised, without batch axes.
        reference: the reference policy, `[sequences]`.
        problem: where pairs come from, without batch axes.
        times: when to look, zero or more and ascending.
        lengths: number of tokens of every sequence; by default all count as one token.
        start: the policy at time 0, of full support; by default the reference.
        tolerance: relative error of each step of the solver.

    Returns:
        Log-probabilities, `[times, sequences]`. SciPy's LSODA takes the steps, in double precision, stiff or
        not, with the Hessian that the objective knows. A step costs a gradient; a stiff one at times a
        Hessian and O(N³). Late times cost little more than early ones.

    Raises:
        ValueError: `times` is negative, not ascending or not finite, `tolerance <= 0`, a distribution is not
            normalised or has a zero where the flow begins, there are batch axes, or the solver gave up, with
            its reason.

    Examples:
        >>> import didsim
        >>> reference, chosen = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.8, 0.2]))
        >>> problem = didsim.Contrastive(chosen, reference)
        >>> path = gradient_flow(didsim.dpo(1.0), reference, problem, [0.0, 10.0, 1e6])
        >>> jnp.exp(path[:, 0]).round(4).tolist()  # from the reference to DPO's minimiser
        [0.5, 0.7638, 0.8]
    """
    _checks.instance("objective", objective, Objective, "an Objective")
    _checks.instance("problem", problem, Problem, "a Problem")
    given = _checks.distribution("reference", reference)
    first = given if start is None else _checks.distribution("start", start)
    batch = _checks.same_sequences(reference=given, start=first)
    if batch or problem.batch_shape or objective.batch_shape:
        raise ValueError(
            f"`reference`, `start`, `problem` and `objective` must have no batch axes; got {batch}, "
            f"{problem.batch_shape} and {objective.batch_shape}"
        )
    if not bool(jnp.isfinite(first).all()):
        raise ValueError("`start` must give every sequence a positive probability; it has a zero")
    check_over(problem, "reference", given)
    lengths = check_lengths(lengths, given.shape[-1])
    when = np.asarray(_checks.non_negative("times", times), float)
    if when.ndim != 1 or (np.diff(when) < 0).any():
        raise ValueError(f"`times` must be one axis of ascending numbers; got {times}")
    tolerance = _checks.real("tolerance", tolerance, _checks.positive)
    with jax.enable_x64(True):
        flow = _Flow(*in_dtype((objective, given, problem, lengths), np.dtype(float)))
        begin = np.asarray(first, float)
        if when[-1] == 0:
            logits = np.repeat(begin[:, None], len(when), axis=1)
        else:
            found = scipy.integrate.solve_ivp(
                lambda _, z: -np.asarray(_gradient(flow, z)),
                (0.0, when[-1]),
                begin,
                method="LSODA",
                t_eval=when,
                jac=None if objective.is_gradient_rule else lambda _, z: -np.asarray(_hessian(flow, z)),
                rtol=tolerance,
                atol=tolerance,
            )
            if not found.success:
                raise ValueError(f"`objective` must have a flow that can be followed; {found.message}")
            logits = found.y
        path = np.asarray(log_softmax(logits.T, axis=-1))
    return on_device(path.astype(given.dtype))


class _Flow(NamedTuple):
    objective: Objective
    reference: Array
    problem: Problem
    lengths: Array | None


@eqx.filter_jit
def _gradient(flow: _Flow, z: np.ndarray | Array) -> Array:
    def loss(z: Array) -> Array:
        return flow.objective.population_loss(log_softmax(z), flow.reference, flow.problem, flow.lengths)

    logits = jnp.asarray(z)
    return flow.objective.direction(jax.grad(loss)(logits), lambda: _chosen_gradient(flow.problem, logits))


def _chosen_gradient(problem: Problem, logits: Array) -> Array:
    """The gradient of the mean chosen log-probability, for rules that ask for it (`Objective.direction`)."""
    chosen = jnp.exp(problem.chosen_marginal(logits.shape[-1]))
    return chosen - jnp.exp(log_softmax(logits))


@eqx.filter_jit
def _hessian(flow: _Flow, z: np.ndarray | Array) -> Array:
    return flow.objective.curvature(jnp.asarray(z), flow.reference, flow.problem, flow.lengths)

"""Where an objective converges, with a certificate."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from didsim import _checks
from didsim.fixed_points.certificate import NoMinimiserError, Solution
from didsim.fixed_points.closed_forms import best_reward
from didsim.fixed_points.convexity import is_least_at_preferences, is_likelihood
from didsim.fixed_points.on_logits import solve_bounded, solve_likelihood, solve_on_logits
from didsim.fixed_points.on_parameters import solve_in_family
from didsim.fixed_points.on_rewards import solve_differences
from didsim.fixed_points.task import Task, batched, gradient_rule, only_pair
from didsim.information import LogProbs, LogProbsLike
from didsim.objectives.kernels import Sigmoid
from didsim.objectives.objective import KeepsChosen, Objective, check_lengths
from didsim.objectives.terms import Single
from didsim.policies import Policy
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled
from didsim.preferences.online import Online
from didsim.preferences.problem import Problem


def fixed_point(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    policy: Policy | None = None,
    starts: int = 8,
) -> LogProbs:
    """The policy that minimises the population loss: `solve`, without its certificate.

    Arguments and cost are those of `solve`.

    Returns:
        Log-probabilities, with the batch axes of all arguments.

    Raises:
        NoMinimiserError: the certificate does not bear out that these are the one minimiser of full support:
            there is none, or more than one, the pairs do not identify it, the solver did not converge, or its
            starts disagree. The error says which, and has the `Solution`. It is a `ValueError`.
        ValueError: an argument is wrong. Under `jit`, `vmap` and `grad` there are closed forms alone.
        EquinoxRuntimeError: under these, and there is no minimiser of full support.

    >>> from didsim import Contrastive, dpo, optimal_rejected
    >>> reference, target = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> problem = Contrastive(reference, optimal_rejected(reference, target, beta=0.1))
    >>> jnp.exp(fixed_point(dpo(beta=0.1), reference, problem)).tolist()
    [0.2, 0.3, 0.5]
    """
    if not _checks.known((objective, reference, problem, policy)):
        if policy is not None:
            raise ValueError("`policy` has no closed form: call it outside jit, vmap and grad")
        return _traced(objective, reference, problem, lengths)
    solution = _solve(objective, reference, problem, lengths, policy, starts, measured=False)
    objection = solution.objection()
    if objection is not None:
        raise NoMinimiserError(
            f"`objective` has no minimiser to return here: {objection}. `didsim.solve` gives what was found, "
            "with its certificate",
            solution,
        )
    return solution.log_probs


def solve(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    policy: Policy | None = None,
    starts: int = 8,
) -> Solution:
    """Where an objective converges, exactly, with a certificate.

    A loss of differences of one implicit reward is minimised in two steps: the reward that minimises the
    expectation of the kernel, `didsim.fixed_points.closed_forms.best_reward`, and the policy that has it.

    - Logistic (DPO, SimPO without margin, R-DPO, f-DPO, …): `log(π_w/π_l)`, or the reward of labelled pairs,
      whatever their samplers. Exponential: half of that. Squared (IPO): bounded; closed forms, O(N).
    - Hinge: a linear program, and shortest paths for uniqueness; N² variables.
    - Any other convex kernel (a margin, smoothed labels) and finite data: Newton's method on the reward, in
      which the loss is convex.

    The policy with reward `h`: `reference · exp(h/beta)`, normalised, for the log-ratio, and so on for each
    reward, `Reward.policy`, with a scalar root for those that have no normaliser in closed form.

    So DPO ends at `reference · (π_w/π_l)^(1/beta)`, and SimPO without its margin, at equal lengths, at
    `(π_w/π_l)^(1/beta)`: under the power law the DID, not the target. (Derived here.)

    The likelihood of the chosen (SFT) ends at their distribution. Losses of bounded rewards of single
    sequences (KTO, APO-zero), `Σ_y (λ_D π_w − λ_U π_l)(y) σ(h(y) − z)` to be made large, end on the set where
    the first factor is positive, and give all others probability zero: any mass there is better moved.
    (Derived here.) On that set `σ(h − z) = π^β/(π^β + const)` is concave in `π` for `beta ≤ 1`, so that for
    fixed `z` the limit is the only one; for `beta < 1` its slope at zero is infinite, so that all of the
    set keeps some probability. All else is solved by Newton's method on logits, from several starts.

    A loss that is convex in `log π`, taken as a free vector, and that does not fall if all its entries are
    lowered together, has but one minimum: it is then the minimum over the convex set `Σ e^(log π) ≤ 1`.
    (Derived here.) The certificate uses it where the loss is convex so.

    Args:
        objective: what is minimised. For a gradient rule (DPO-PG) nothing is: the certificate says so.
        reference: the reference policy.
        problem: where pairs come from.
        lengths: number of tokens of every sequence; by default they count as equal, of one token.
        policy: a policy whose family is searched, in its own parameters; by default all distributions.
            Newton's method rests where it would change no parameter by more than 1e-13: where a unit of one
            is worth 10¹³ nats, that is anywhere.
        starts: of Newton's method, where the loss is not known to be convex: the reference (or the policy
            as given), and random ones by a fixed key. With one there is none to disagree with it.

    Returns:
        A `Solution`. Closed forms cost O(N), or as `didsim.pair_sum`; Newton's method O(N³) for each of its
        steps, start and problem, and beyond 1,024 sequences L-BFGS, O(N) to O(N log N) a step.

    Raises:
        ValueError: an argument is not normalised or has a zero, shapes do not fit, or the problem is too
            large for its kind of solver.

    >>> from didsim import Contrastive, slic
    >>> p, q = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> solution = solve(slic(beta=1.0), q, Contrastive(p, q))
    >>> (solution.log_probs - q - (solution.log_probs - q)[0]).round(6).tolist()  # on a grid
    [0.0, -1.0, -2.0]
    >>> bool(solution.certificate.unique)
    True
    """
    return _solve(objective, reference, problem, lengths, policy, starts, measured=True)


def _solve(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: ArrayLike | None,
    policy: Policy | None,
    starts: int,
    measured: bool,
) -> Solution:
    """`solve`; if not `measured`, without the gradient at closed forms, which they do not need."""
    reference, lengths, batch = _checked(objective, reference, problem, lengths)
    starts = _checks.positive_int("starts", starts)
    if not _checks.known((objective, reference, problem)):
        raise ValueError("`solve` must be called outside jit, vmap and grad: it compiles what it needs")
    task = Task.over_runs(objective, reference, problem, lengths, batch, measured)
    if policy is not None:
        _checks.instance("policy", policy, Policy, "a Policy, as LogLinear")
        return solve_in_family(task, policy, starts, batch)
    return batched(_free(task, starts), batch)


def _checked(
    objective: Objective, reference: LogProbsLike, problem: Problem, lengths: ArrayLike | None
) -> tuple[Array, Array | None, _checks.Shape]:
    """The reference, the lengths and the batch axes of all arguments."""
    reference = _checks.distribution("reference", reference, full_support=True)
    size = reference.shape[-1]
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
    problem.check_size(size)
    batch = _checks.broadcast(
        reference=reference.shape[:-1], problem=problem.batch_shape, objective=objective.batch_shape
    )
    return reference, check_lengths(lengths, size), batch


def _free(task: Task, starts: int) -> Solution:
    """The minimiser among all distributions."""
    if isinstance(task.objective, KeepsChosen):
        return gradient_rule(task)
    pair, online = only_pair(task.objective), isinstance(task.problem, Online)
    if pair is not None and (not online or is_least_at_preferences(pair)):
        return solve_differences(task, pair, starts)
    if len(task.objective.terms) == 1 and not online:
        (term,) = task.objective.terms
        if isinstance(term, Single) and is_likelihood(term) and not term.reward.needs_lengths:
            return solve_likelihood(task)
    bounded = all(isinstance(one, Single) and isinstance(one.kernel, Sigmoid) for one in task.objective.terms)
    if bounded and not online:
        return solve_bounded(task, starts)
    return solve_on_logits(task, starts)


def _traced(
    objective: Objective, reference: LogProbsLike, problem: Problem, lengths: ArrayLike | None
) -> Array:
    """The closed form of a loss of differences, for values that are not known yet."""
    reference, lengths, batch = _checked(objective, reference, problem, lengths)
    limit = _closed_form(objective, reference, problem, lengths)
    if limit is None:
        raise ValueError(
            "`fixed_point` has no closed form for this objective and problem, and must be called outside "
            "jit, vmap and grad to solve for it"
        )
    is_there = jnp.isfinite(limit).all()
    if isinstance(problem, Labelled):
        # The reward says what is right of sequences that no pair has, too.
        is_there &= jnp.isfinite(jnp.maximum(problem.first, problem.second)).all()
    limit = eqx.error_if(
        limit,
        ~is_there,
        "`objective` has no minimiser to return here: none of full support is identified",
    )
    return jnp.broadcast_to(limit, (*batch, reference.shape[-1]))


def _closed_form(
    objective: Objective, reference: Array, problem: Problem, lengths: Array | None
) -> Array | None:
    """The closed form of a loss of differences, without a look at the values of anything."""
    pair = only_pair(objective)
    if pair is None or isinstance(objective, KeepsChosen):
        return None
    if isinstance(problem, Online) and is_least_at_preferences(pair):
        problem = problem.uniform()
    if not isinstance(problem, Contrastive | Labelled):
        return None
    h = best_reward(pair.kernel, problem)
    return None if h is None else pair.reward.policy(h, reference, lengths)

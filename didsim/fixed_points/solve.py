"""Where an objective converges, with a certificate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Int

from didsim import _checks
from didsim._batches import as_runs, batched
from didsim._memory import fitting_int
from didsim.fixed_points.blas import on_one_thread
from didsim.fixed_points.certificate import Given, NoMinimiserError, Solution
from didsim.fixed_points.closed_forms import (
    closed_form,
    has_expected_reward,
    solve_expected_reward,
    solve_likelihood,
)
from didsim.fixed_points.implicit import differentiable
from didsim.fixed_points.on_logits import solve_bounded, solve_on_logits
from didsim.fixed_points.on_parameters import solve_on_parameters
from didsim.fixed_points.on_rewards import solve_on_rewards
from didsim.fixed_points.task import First, Task, finished, gradient_rule, in_dtype, rewards_at
from didsim.information import LogProbs, LogProbsLike
from didsim.objectives.objective import Objective, check_lengths
from didsim.objectives.reference import visible_reference
from didsim.policies import Policy
from didsim.preferences.problem import Problem, check_over

_START = 64  # bytes for each sequence: the logits of a start, and the vectors of a step from there


def fixed_point(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: Int[ArrayLike, " sequences"] | None = None,
    *,
    policy: Policy | None = None,
    starts: int = 8,
    start: LogProbsLike | Solution | None = None,
) -> LogProbs:
    """The policy that minimises the population loss: `solve`, without its certificate.

    Arguments and cost are those of `solve`.

    **Derivatives.** `jax.grad`, `jax.jvp` and `jax.vjp` go through `fixed_point`: they say how the minimiser
    moves with the numbers of the objective, with the reference and with the problem. A closed form is
    differentiated as it stands. Everywhere else the implicit function theorem gives the derivative, at the
    cost of one dense linear system (`didsim.fixed_points.implicit`). Baselines and the samplers of online
    pairs move along with the minimiser. A change of the reference is taken to keep it normalised, as
    `log_softmax` does. A change of a problem's distributions is taken as it is, so these should be normalised
    inside of the function that is differentiated.

    Returns:
        Log-probabilities, with the batch axes of all arguments.

    Raises:
        NoMinimiserError: there is no unique minimiser of full support, or the certificate leaves a doubt: the
            pairs do not identify it, the solver did not converge, or its starts disagree. The message says
            which, and the error holds the `Solution`. It is a `ValueError`.
        ValueError: an argument is wrong; or an argument is traced by `jit` or `vmap`, and there is no closed
            form; or the derivative of a minimiser without a closed form is asked for where there is none: the
            loss has corners, or its second derivative is singular; or there are more than 1,024 sequences.
        EquinoxRuntimeError: an argument is traced, and no minimiser has full support.

    Examples:
        >>> from didsim import Contrastive, dpo, optimal_rejected
        >>> reference, target = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
        >>> problem = Contrastive(reference, optimal_rejected(reference, target, beta=0.1))
        >>> jnp.exp(fixed_point(dpo(beta=0.1), reference, problem)).tolist()
        [0.2, 0.3, 0.5]
    """
    if not _checks.known((objective, reference, problem, policy)):
        if policy is not None:
            raise ValueError("`policy` has no closed form: call it outside jit, vmap and grad")
        return _traced(objective, reference, problem, lengths, starts, start)
    return _found(objective, reference, problem, lengths, policy, starts, start)


def _found(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: ArrayLike | None,
    policy: Policy | None,
    starts: int,
    start: LogProbsLike | Solution | None,
) -> Array:
    """`fixed_point`, if all arguments are known."""
    solution = _solve(objective, reference, problem, lengths, policy, starts, start, measured=False)
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
    start: LogProbsLike | Solution | None = None,
) -> Solution:
    """Where an objective converges, exactly, with a certificate.

    **Losses of differences** of one implicit reward are minimised in two steps. First comes the reward that
    minimises the expected kernel:

    - The logistic kernel (DPO, SimPO without margin, R-DPO, f-DPO, …) ends at `log(π_w/π_l)`, or at the
      reward of labelled pairs, whatever their samplers. The exponential kernel ends at half of that. The
      squared one (IPO) ends at a bounded reward. These are closed forms, O(N).
    - The hinge is a linear program of N² variables. Shortest paths tell whether its solution is unique.
    - Any other convex kernel (a margin, smoothed labels), and finite data, take Newton's method on the
      reward, in which the loss is convex. Pairs that leave rewards open are told before it starts.

    Then comes the policy that has this reward (`Reward.policy`): for the log-ratio `reference · exp(h/beta)`,
    normalised. Some rewards have no normaliser in closed form; a scalar root is found for these.

    So DPO ends at `reference · (π_w/π_l)^(1/beta)`. SimPO without its margin, at equal lengths, ends at
    `(π_w/π_l)^(1/beta)`. Under the power law this is the DID, not the target. (Derived here.)

    **The likelihood of the chosen** (SFT) ends at their distribution, and **the expected reward** of a policy
    less its divergence from the reference (`policy_gradient`, `ppo`) at `kl_optimum`.

    **Bounded losses of single sequences** (KTO, APO-zero) make `Σ_y g(y) σ(h(y) − z)` large, with the gain
    `g = λ_D π_w − λ_U π_l`. They end on the set where `g > 0`, and give all other sequences probability zero,
    since any mass there is better moved. (Derived here.) On that set `σ(h − z) = π^β/(π^β + const)` is
    concave in `π` for `beta ≤ 1`. So for a fixed `z` there is only one limit. For `beta < 1` the slope at
    zero is infinite, so that every sequence of the set keeps some probability.

    **All other losses** take Newton's method on logits, from several starts. Those that are convex in the
    logits (CPO) take one, and have no other minimum. Another argument proves this for many more: a loss may
    be convex in `log π`, taken as a free vector, and not fall if all entries are lowered together. It then
    has one minimum over the convex set `Σ e^(log π) ≤ 1`, and this is it. (Derived here.)

    A baseline (KTO, BCO) is that of the policy itself, and no gradient passes through it. Such a loss ends
    where its gradient vanishes, where the loss rises on all sides for that baseline, and where descent stays
    although it moves the baseline. BCO can have several such ends. So can a loss of pairs that follow the
    policy (`Online`), unless a reward explains their labels and the kernel is calibrated.

    Args:
        objective: what is minimised. A gradient rule (DPO-PG) minimises nothing, and its certificate says so.
        reference: the reference policy.
        problem: where pairs come from.
        lengths: number of tokens of every sequence; by default all count as one token.
        policy: a policy whose family is searched, in its own parameters; by default all distributions are.
            Newton's method stops when a step changes no parameter by more than 1e-14. Parameters should
            therefore have the size of nats.
        starts: number of starting points of Newton's method, if the loss is not known to be convex. The first
            is the reference (or the policy as given), the others are random, by a fixed key. In a search over
            rewards, the second is where the logistic loss of the same pairs ends. A single start has no other
            to disagree with. That starts agree proves nothing: on intransitive tables, 8 starts of EXO can
            agree on a minimum that is not the lowest. 64 starts found the lowest that is known in each of 500
            problems of 6 sequences (`tests/fixed_points/test_lowest.py`). DiscoPOP has more minima, and
            rounding may tell in which of them a start ends.
        start: a policy near the minimiser, as log-probabilities or as a `Solution` of a similar problem. It
            takes the place of the reference as the first start, and so saves steps. The certificate means the
            same. For if the solver does not converge from there in every problem, or the loss is level along
            some direction, all is solved again without `start`.

            Its batch axes broadcast to those of the other arguments. Where a `Solution` has no positive
            probability to start from (NaN, zero, or a solver that did not converge), the reference is used. A
            search over rewards starts from the rewards of the policy; for a `Solution`, from those in its own
            objective, which are near even if `beta` is not. Closed forms and linear programs ignore `start`.
            It is not for a `policy`, which is itself the start.

    Returns:
        A `Solution`. Closed forms cost O(N), or as much as `didsim.pair_sum`; `solve` also takes the gradient
        there, in O(N²) up to 1,024 sequences. A step of Newton's method is a Cholesky decomposition, O(N³/3),
        beside a Hessian in O(N²) (`Objective.curvature`). Where the Hessian is singular or has negative
        eigenvalues, a step costs about 10 times as much; for a loss of differences of more than 64 sequences
        it mostly is one more Cholesky decomposition. Problems and starts are taken one after the other, each
        with its own number of steps. LAPACK has one thread meanwhile, in the whole process.

        A loss of single sequences (KTO, BCO, NCA, SPPO, APO-zero, NPO) takes no matrix at any size. Its
        Hessian in the logits is a diagonal and a few vectors, and a step costs O(N)
        (`didsim.fixed_points.arrow`). That needs one baseline for all terms, if there is any.

        Beyond 1,024 sequences no matrix is formed. A loss that knows how much it curves in each number
        (`Objective.knows_own_curvature`) takes Newton's method with steps by conjugate gradients, on the
        rewards if it is of their differences, else on the logits. A step takes a few products with the
        Hessian, each at about the cost of a gradient: O(N) to O(N log N) for populations, O(N + pairs) for
        `Pairs`, O(N²) for DiscoPOP. If it is not convex, a start takes some 20 to 50 steps of about ten
        products, and the end is looked at once more, for a random vector: a start that is not shown to end
        where the loss rises on all sides has not converged.

        All other losses (ORPO, AOT, sums of terms with corners, rewards of the chosen that differ from those
        of the rejected) take L-BFGS, at one or two gradients a step. It looks at no curvature, so that its
        end may be a saddle.

        All is solved in float64, whatever dtype is given, and then rounded. The certificate holds for the
        numbers as given; the rounded log-probabilities are off by up to the rounding of their dtype.

    Raises:
        ValueError: an argument is not normalised, the reference has a zero that a pair sees, shapes do not
            fit, `start` comes with a `policy`, or the problem is too large for its method.

    Examples:
        >>> from didsim import Contrastive, slic
        >>> p, q = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
        >>> solution = solve(slic(beta=1.0), q, Contrastive(p, q))
        >>> (solution.log_probs - q - (solution.log_probs - q)[0]).round(6).tolist()  # on a grid
        [0.0, -1.0, -2.0]
        >>> bool(solution.certificate.unique)
        True
    """
    return _solve(objective, reference, problem, lengths, policy, starts, start, measured=True)


def _solve(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: ArrayLike | None,
    policy: Policy | None,
    starts: int,
    start: LogProbsLike | Solution | None,
    measured: bool,
) -> Solution:
    """`solve`. If not `measured`, the gradient at closed forms is left out, as they do not need it."""
    if not _checks.known((objective, reference, problem, policy)):
        raise ValueError("`solve` must be called outside jit, vmap and grad: it compiles what it needs")
    # Inside `jit`, what is known is solved while the program is traced.
    with _checks.at_once():
        array, lengths, batch = _checked(objective, reference, problem, lengths)
        given = Given(objective, jnp.asarray(reference), problem, lengths)
        starts = fitting_int("starts", starts, _START * array.shape[-1])
        if policy is not None:
            _checks.instance("policy", policy, Policy, "a Policy, as LogLinear")
            _checks.dtypes("policy", eqx.partition(policy, policy.trainable())[0])
            _checks.distribution("policy.log_probs()", policy.log_probs(), full_support=True)
        first = None if start is None else _first_start(start, array, batch, policy)
        dtype = array.dtype
        eps = float(jnp.finfo(dtype).eps)
        task = Task.over_runs(objective, array, problem, lengths, batch, measured, eps)
        with jax.enable_x64(True), on_one_thread():
            task, policy, first = in_dtype((task, policy, first), np.dtype("float64"))
            task = eqx.tree_at(lambda task: task.reference, task, log_softmax(task.reference))
            if policy is not None:
                solution = solve_on_parameters(task, policy, starts, batch)
            else:
                solution = _free(task, starts, first)
                if first is not None and not _is_regular(solution):
                    # What is known of such an end depends on where the solver came from.
                    solution = _free(task, starts, None)
                solution = finished(solution, batch)
        found = in_dtype(solution, dtype)
        return Solution(found.log_probs, found.certificate, found.policy, given)


def _is_regular(solution: Solution) -> bool:
    """Whether the solver converged in all problems, to where the loss curves along every direction."""
    known = solution.certificate
    return bool(np.all(known.converged & (known.flat == 0)))


def _first_start(
    start: LogProbsLike | Solution, reference: Array, batch: _checks.Shape, policy: Policy | None
) -> First:
    """The first start of every run: a policy without zeros, and its rewards in the objective it solved."""
    if policy is not None:
        raise ValueError("`start` must not come with a `policy`, whose own parameters are the first start")
    if not _checks.known(start):
        raise ValueError("`start` must be known at the call; got a traced array")
    rewards = None
    if isinstance(start, Solution):
        # In NumPy, which may hold NaN even if JAX looks for NaN in all that it computes.
        log_probs = np.asarray(start.log_probs)
        kept = np.isfinite(log_probs) & np.asarray(start.certificate.converged)[..., None]
    else:
        log_probs = np.asarray(_checks.distribution("start", start, full_support=True))
        kept = np.ones(log_probs.shape, bool)
    shape, size = log_probs.shape, reference.shape[-1]
    if shape[-1] != size:
        raise ValueError(f"`start` must be over {size} sequences, as `reference`; got shape {shape}")
    if _checks.broadcast(start=shape[:-1], arguments=batch) != batch:
        raise ValueError(
            "`start` must have batch axes that broadcast to those of the other arguments, "
            f"{batch}; got shape {shape}"
        )
    if isinstance(start, Solution) and start.given is not None:
        rewards = as_runs(np.where(kept, _rewards_of(start.given, log_probs, kept), 0), batch, 1)
    return First(as_runs(np.where(kept, log_probs, np.asarray(reference)), batch, 1), rewards)


def _rewards_of(given: Given, log_probs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The implicit rewards of policies under the objective that they were solved for, where they are kept."""
    reference = visible_reference(given.reference, given.problem, given.objective.terms)
    usable = np.where(kept, log_probs, -np.log(log_probs.shape[-1])).astype(log_probs.dtype)
    batch = log_probs.shape[:-1]
    task = Task.over_runs(given.objective, reference, given.problem, given.lengths, batch, False, 0.0)
    return np.asarray(batched(rewards_at(task, as_runs(usable, batch, 1)[:, None])[:, 0], batch))


def _checked(
    objective: Objective, reference: LogProbsLike, problem: Problem, lengths: ArrayLike | None
) -> tuple[Array, Array | None, _checks.Shape]:
    """The reference, the lengths and the batch axes of all arguments."""
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
    array = _checks.distribution("reference", reference)
    check_over(problem, "reference", array)
    reference = visible_reference(array, problem, objective.terms)
    size = array.shape[-1]
    _checks.parameters("objective", objective, reference.dtype)
    batch = _checks.broadcast(
        reference=reference.shape[:-1], problem=problem.batch_shape, objective=objective.batch_shape
    )
    return reference, check_lengths(lengths, size), batch


def _free(task: Task, starts: int, first: First | None) -> Solution:
    """The minimiser among all distributions. `first` is the first start of every run, if one is given."""
    objective, problem, online = task.objective, task.problem, task.problem.online
    if objective.is_gradient_rule:
        return gradient_rule(task)
    if has_expected_reward(objective):
        return solve_expected_reward(task)
    pair = objective.difference_term
    # Labels that a reward explains have one calibrated minimiser, whatever the sampler.
    is_explained = online and problem.encoded_reward() is not None
    if pair is not None and (not online or (pair.kernel.calibrated and is_explained)):
        return solve_on_rewards(task, pair, starts, first)
    if not online:
        if len(objective.terms) == 1 and objective.terms[0].is_likelihood:
            return solve_likelihood(task)
        if objective.bounded_terms is not None:
            return solve_bounded(task, objective.bounded_terms, starts, first)
    return solve_on_logits(task, starts, first)


def _traced(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: ArrayLike | None,
    starts: int,
    start: LogProbsLike | Solution | None,
) -> Array:
    """The closed form of a loss of differences under `jit`, `vmap` or `grad`; any minimiser under `grad`."""
    array, lengths, batch = _checked(objective, reference, problem, lengths)
    limit = None if objective.is_gradient_rule else closed_form(objective, array, problem, lengths)
    if limit is None:

        def find(objective: Objective, reference: Array, problem: Problem) -> Array:
            if not _checks.known((objective, reference, problem)):
                raise ValueError(
                    "`fixed_point` has no closed form for this objective and problem, and must be called "
                    "outside jit and vmap to solve for it"
                )
            return _found(objective, reference, problem, lengths, None, starts, start)

        return differentiable(find, objective, jnp.asarray(reference), problem, lengths, batch)
    # A reward of labels says what is right even of sequences that no pair has.
    is_there = jnp.isfinite(limit).all() & problem.offline().occurring().all()
    limit = eqx.error_if(
        limit,
        ~is_there,
        "`objective` has no minimiser to return here: none of full support is identified",
    )
    return jnp.broadcast_to(limit, (*batch, array.shape[-1]))

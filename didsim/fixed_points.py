"""Where an objective converges, with a certificate: closed forms, a linear program, Newton's method."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from didsim import _checks
from didsim._checks import Shape
from didsim._closed_forms import best_reward
from didsim._hinge import minimise_hinge
from didsim._lbfgs import minimise_large
from didsim._newton import Found, minimise
from didsim._smoothing import TEMPERATURES, has_kinks, smoothed
from didsim._win_graph import Comparisons, compare
from didsim.composition import KeepsChosen, Objective, check_lengths
from didsim.information import LogProbs, LogProbsLike, js
from didsim.kernels import Exponential, Hinge, Linear, Logistic, Sigmoid, Squared
from didsim.online import Online
from didsim.policies import EnergyBased, LogLinear, Policy
from didsim.preferences import Contrastive, Labelled, Problem
from didsim.rewards import DivergenceSlope, Guarded, LengthRegularised, LogProb, LogRatio
from didsim.terms import Pair, Single, Term

_FAR = -300.0  # no policy of a problem that ends so far out is anywhere but on its way
_DENSE = 1024  # numbers to solve for, up to which there are N × N matrices


class Certificate(eqx.Module):
    """What is known of a solution. Arrays have the batch axes of the arguments.

    Attributes:
        method: how it was found.
        gradient_norm: the largest entry of the loss's gradient in the logits (or in the parameters of a
            policy that was given), by magnitude; NaN where it is not asked for.
        duality_gap: for a linear program, by how much its loss may be above the minimum; else NaN.
        last_step: the largest change of a number that one more step of Newton's method would make; 0 for
            closed forms.
        finite: whether the minimiser gives every sequence a positive probability. Where it does not, the
            log-probabilities have `−inf`, or are those of a policy on its way there, or NaN. False also
            where the solver did not converge.
        unique: True where there is proof that the minimiser is the only one, False where there is that it
            is not; None if neither is known.
        converged: whether the solver ended at a stationary point. It tells nothing of others.
        starts: the number of starts.
        agreed: whether all starts ended at one policy; None if there was but one.
        component: a number for every sequence; differences of rewards are identified between sequences of
            the same one.
        identified: whether a sequence is in the largest component.
        note: what else there is to say.
    """

    method: str = eqx.field(static=True)
    gradient_norm: Float[Array, "*batch"]
    duality_gap: Float[Array, "*batch"]
    last_step: Float[Array, "*batch"]
    finite: Bool[Array, "*batch"]
    unique: Bool[Array, "*batch"] | None
    converged: Bool[Array, "*batch"]
    starts: int = eqx.field(static=True)
    agreed: Bool[Array, "*batch"] | None
    component: Int[Array, "*batch sequences"]
    identified: Bool[Array, "*batch sequences"]
    note: str = eqx.field(static=True)


class Solution(eqx.Module):
    """A minimiser, and what is known of it.

    Attributes:
        log_probs: log-probabilities, with the batch axes of the arguments.
        certificate: what is known of them.
        policy: the policy with its own parameters, if one was given.
    """

    log_probs: LogProbs
    certificate: Certificate
    policy: Policy | None = None

    def objection(self) -> str | None:
        """Why the log-probabilities alone would mislead, or None."""
        known = self.certificate
        if known.method == "none" and known.note:
            return known.note
        identified, converged = np.asarray(known.identified), np.asarray(known.converged)
        if not identified.all():
            return (
                f"the pairs do not identify {(~identified).sum()} of {identified.size} sequences: wins "
                "and losses do not hold their rewards to those of the others: they run off or are arbitrary"
            )
        if not converged.all():
            smallest = float(jnp.min(self.log_probs))
            way = "the policy runs off" if smallest < _FAR else "the solver did not converge"
            return (
                f"{way} in {(~converged).sum()} of {converged.size} problems: the smallest log-probability "
                f"is {smallest:.4g}, and the next step would change a number by "
                f"{float(np.nanmax(known.last_step)):.3g}"
            )
        if not np.asarray(known.finite).all():
            return "no minimiser gives every sequence a positive probability. " + known.note
        if known.unique is not None:
            return None if np.asarray(known.unique).all() else "the minimiser is not unique"
        if known.agreed is not None and not np.asarray(known.agreed).all():
            return f"{known.starts} starts ended at different policies"
        return None


class NoMinimiserError(ValueError):
    """There is no minimiser, or none that is certain.

    Attributes:
        solution: what was found instead.
    """

    def __init__(self, message: str, solution: Solution):
        super().__init__(message)
        self.solution = solution


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
        ValueError: an argument is wrong.

    >>> from didsim import Contrastive, dpo, optimal_rejected
    >>> reference, target = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> problem = Contrastive(reference, optimal_rejected(reference, target, beta=0.1))
    >>> jnp.exp(fixed_point(dpo(beta=0.1), reference, problem)).tolist()
    [0.2, 0.3, 0.5]
    """
    if not _checks.known((objective, reference, problem)):
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
    expectation of the kernel, `didsim._closed_forms.best_reward`, and the policy that has it.

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
        starts: of Newton's method, where the loss is not known to be convex: the reference (or the policy
            as given), and random ones by a fixed key.

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
    reference = _checks.distribution("reference", reference, full_support=True)
    size = reference.shape[-1]
    lengths = check_lengths(lengths, size)
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
    starts = _checks.positive_int("starts", starts)
    problem.check_size(size)
    shapes = {"reference": reference.shape[:-1], "problem": problem.batch_shape}
    batch = _checks.broadcast(**shapes, objective=objective.batch_shape)
    if not _checks.known((objective, reference, problem)):
        raise ValueError("`solve` must be called outside jit, vmap and grad: it compiles what it needs")
    task = _Task.over_runs(objective, reference, problem, lengths, batch, measured)
    if policy is not None:
        _checks.instance("policy", policy, Policy, "a Policy, as LogLinear")
        return _in_family(task, policy, starts, batch)
    return _batched(_free(task, starts), batch)


class _Task(eqx.Module):
    """What is to be solved: arrays with one axis of runs, but for lengths."""

    objective: Objective
    reference: Float[Array, "runs sequences"]
    problem: Problem
    lengths: Array | None
    measured: bool = eqx.field(static=True)

    @classmethod
    def over_runs(
        cls,
        objective: Objective,
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        batch: Shape,
        measured: bool,
    ) -> "_Task":
        def runs(leaf: Any, event_ndim: int) -> Array:
            leaf = jnp.asarray(leaf)
            event = leaf.shape[leaf.ndim - event_ndim :]
            return jnp.broadcast_to(leaf, (*batch, *event)).reshape(-1, *event)

        objective = jax.tree.map(lambda leaf: runs(leaf, 0), objective)
        return cls(objective, runs(reference, 1), problem.over_runs(runs), lengths, measured)

    @property
    def runs(self) -> int:
        return self.reference.shape[0]

    @property
    def size(self) -> int:
        return self.reference.shape[1]

    @property
    def pair(self) -> Pair | None:
        """The objective's one term, if it is a loss of differences of one reward that has an inverse."""
        (term, *more) = self.objective.terms
        if more or not isinstance(term, Pair) or term.chosen_reward is not None:
            return None
        return term


def _free(task: _Task, starts: int) -> Solution:
    """The minimiser among all distributions."""
    if isinstance(task.objective, KeepsChosen):
        return _gradient_rule(task)
    if task.pair is not None and not (isinstance(task.problem, Online) and not _is_plain_logistic(task.pair)):
        return _of_differences(task, task.pair, starts)
    if len(task.objective.terms) == 1 and not isinstance(task.problem, Online):
        (term,) = task.objective.terms
        if isinstance(term, Single) and _is_likelihood(term) and not term.reward.needs_lengths:
            return _likelihood(task)
    if all(isinstance(term, Single) and isinstance(term.kernel, Sigmoid) for term in task.objective.terms):
        return _bounded(task, starts)
    return _on_logits(task, starts)


def _gradient_rule(task: _Task) -> Solution:
    note = (
        "A gradient rule has no loss of its own. It rests where its loss falls no further without lowering "
        "the chosen likelihood: at minimisers of the loss plus any multiple of the chosen negative "
        "log-likelihood; which one depends on the start, from which `didsim.train` finds it"
    )
    nothing = jnp.full_like(task.reference, jnp.nan)
    return _solution(task, nothing, "none", converged=False, finite=False, unique=False, note=note)


def _of_differences(task: _Task, pair: Pair, starts: int) -> Solution:
    """A loss of differences of one implicit reward."""
    problem = task.problem.uniform() if isinstance(task.problem, Online) else task.problem
    kernel = pair.kernel
    full = isinstance(problem, Contrastive | Labelled) and problem.has_full_support
    one_sided = isinstance(kernel, Exponential) or (isinstance(kernel, Logistic) and kernel.smoothing is None)
    compared = None
    if not full:
        compared = compare(problem, task.size, task.runs, both_ways=one_sided)
    if isinstance(kernel, Hinge):
        return _hinge(task, pair, problem, compared)
    if full:
        assert isinstance(problem, Contrastive | Labelled)
        h = _best_reward(pair, problem)
        if h is not None:
            method = "closed form"
            if isinstance(pair.reward, DivergenceSlope) or pair.reward.needs_lengths:
                method = "closed form, one root"
            return _solution(task, _policy_of(task, pair, h), method, compared=compared)
    return _where_identified(_reward_by_newton(task, pair, problem, starts, compared))


def _where_identified(solution: Solution) -> Solution:
    """NaN for problems whose pairs do not hold all rewards together: there is nothing to converge to."""
    known = solution.certificate
    whole = known.identified.all(axis=-1)
    unique = jnp.where(whole, True if known.unique is None else known.unique, False)
    certificate = eqx.tree_at(
        lambda c: (c.finite, c.unique, c.converged),
        known,
        (known.finite & whole, known.unique if bool(whole.all()) else unique, known.converged | ~whole),
        is_leaf=lambda leaf: leaf is None,
    )
    return Solution(jnp.where(whole[:, None], solution.log_probs, jnp.nan), certificate)


@eqx.filter_jit
def _best_reward(pair: Pair, problem: Contrastive | Labelled) -> Array | None:
    return best_reward(pair.kernel, problem)


@eqx.filter_jit
def _policy_of(task: _Task, pair: Pair, h: Array) -> Array:
    return pair.reward.policy(h, task.reference, task.lengths)


def _hinge(task: _Task, pair: Pair, problem: Problem, compared: Comparisons | None) -> Solution:
    _check_dense(task, "a hinge, whose linear program has a variable for every pair")
    assert isinstance(pair.kernel, Hinge)
    tables = np.exp(np.asarray(problem.joint(task.size).log_probs, float))
    tables = np.broadcast_to(tables, (task.runs, task.size, task.size))
    found = [minimise_hinge(table) for table in tables]
    h = jnp.asarray(np.stack([one.h for one in found]), task.reference.dtype)
    solved = np.array([one.solved for one in found])
    spread = np.array([one.spread for one in found])
    finite = np.isfinite(h).all(axis=-1) & solved
    return _solution(
        task,
        _policy_of(task, pair, pair.kernel.delta[..., None] * h),
        "linear program",
        duality_gap=np.array([one.gap for one in found]),
        converged=solved,
        finite=finite,
        unique=spread == 0,
        compared=compared,
    )


def _likelihood(task: _Task) -> Solution:
    """The cross-entropy to the chosen distribution is smallest at it."""
    chosen = jax.vmap(lambda problem: problem.chosen_marginal(task.size))(task.problem)
    finite = jnp.isfinite(chosen).all(axis=-1)
    return _solution(task, chosen.astype(task.reference.dtype), "closed form", finite=finite)


def _reward_by_newton(
    task: _Task, pair: Pair, problem: Problem, starts: int, compared: Comparisons | None
) -> Solution:
    """A second-order method on the rewards themselves, in which a convex kernel's loss is convex."""
    convex = has_convex_kernel(pair)
    guesses = _random(task, 1 if convex else starts)
    if task.size > _DENSE:
        found, method = _lbfgs_on_rewards(pair, problem, guesses), "L-BFGS on rewards"
    else:
        found, method = _newton_on_rewards(pair, problem.joint(task.size), guesses), "Newton on rewards"
    ends = jax.vmap(lambda h: _policy_of(task, pair, h), 1, 1)(found.z)
    best, ends, agreed = _best_of(found, ends)
    return _solution(
        task,
        ends,
        method,
        found=best,
        unique=best.converged if convex else None,
        starts=guesses.shape[1],
        agreed=agreed,
        compared=compared,
    )


@eqx.filter_jit
def _newton_on_rewards(pair: Pair, problem: Problem, guesses: Array) -> Found:
    def one(pair: Pair, problem: Problem, start: Array) -> Found:
        return minimise(lambda h, _: pair.kernel.expect(problem, h), start, 1, moves=False)

    return _over_starts(one)(pair, problem, guesses)


@eqx.filter_jit
def _lbfgs_on_rewards(pair: Pair, problem: Problem, guesses: Array) -> Found:
    def one(pair: Pair, problem: Problem, start: Array) -> Found:
        return minimise_large(lambda h: pair.kernel.expect(problem, h), start, _mass(problem, start))

    return _over_starts(one)(pair, problem, guesses)


def _over_starts(one: Callable[[Any, Any, Array], Found]) -> Callable[[Any, Any, Array], Found]:
    return jax.vmap(jax.vmap(one, (None, None, 0)))


def _mass(problem: Problem, like: Array) -> Array:
    """How often each sequence is chosen or rejected."""
    size = like.shape[-1]
    both = jnp.logaddexp(problem.chosen_marginal(size), problem.rejected_marginal(size))
    return jnp.exp(both).astype(like.dtype)


def _bounded(task: _Task, starts: int) -> Solution:
    """Losses `1 − σ(±(h − z))` of single sequences alone, which put all mass where it pays."""
    rewards = [term.reward for term in task.objective.terms]
    if not all(isinstance(one, LogRatio) and not one.per_token for one in rewards):
        return _on_logits(task, starts)
    support = _gains(task) > 0
    if not bool(support.any(axis=-1).all()):
        return _on_logits(task, starts)
    concave = jnp.stack([one.beta <= 1 for one in rewards if isinstance(one, LogRatio)]).all(axis=0)
    note = "Sequences that are rejected more often than chosen, as the loss weighs them, get probability zero"
    return _on_logits(
        task,
        starts,
        support=support,
        unique=None if task.objective.has_baseline else jnp.broadcast_to(concave, task.runs),
        note="" if bool(support.all()) else note,
    )


@eqx.filter_jit
def _gains(task: _Task) -> Array:
    """What each sequence adds to minus the loss, per unit of `σ(h − z)`, for losses `1 − σ(±(h − z))`."""

    @eqx.filter_vmap
    def of_run(objective: Objective, problem: Problem) -> Array:
        total = jnp.zeros(task.size, task.reference.dtype)
        for term in objective.terms:
            assert isinstance(term, Single)
            of = problem.chosen_marginal if term.sequence == "chosen" else problem.rejected_marginal
            part = term.weighted(jnp.exp(of(task.size)))
            total = total + part if term.push == "up" else total - part
        return total

    return of_run(task.objective, task.problem)


def _on_logits(
    task: _Task,
    starts: int,
    support: Array | None = None,
    unique: Array | None = None,
    note: str = "",
) -> Solution:
    """Newton's method on the logits of a policy over all sequences, or over those of a support."""
    log_convex = all(is_convex_in_log_probs(term) for term in task.objective.terms)
    convex = all(is_convex_in_logits(term) for term in task.objective.terms)
    guesses = task.reference[:, None] + _random(task, 1 if convex and support is None else starts)
    if task.size > _DENSE:
        if task.objective.has_baseline or isinstance(task.problem, Online) or support is not None:
            _check_dense(task, "a loss that depends on the policy other than through its gradient")
        found, method = _lbfgs_on_logits(task, guesses), "L-BFGS on logits"
    else:
        method = "Newton on logits"
        task, found = _rounding_kinks(task, guesses, lambda task, z: _newton_on_logits(task, z, support))
    ends = log_softmax(found.z if support is None else _masked(found.z, support[:, None]), axis=-1)
    best, ends, agreed = _best_of(found, ends)
    if log_convex and unique is None and not task.objective.has_baseline:
        # A set of log-probabilities that sum to at most one is convex; see `solve`.
        unique = (_shift_slope(task, ends) <= 1e-9) & best.converged
        unique = None if not bool(unique.all()) else unique
    return _solution(
        task,
        ends,
        method,
        found=best,
        finite=jnp.isfinite(ends).all(axis=-1) & best.converged,
        unique=None if unique is None else unique & best.converged,
        starts=guesses.shape[1],
        agreed=agreed,
        note=note,
    )


def _rounding_kinks(
    task: _Task, guesses: Array, newton: Callable[[_Task, Array], Found]
) -> tuple[_Task, Found]:
    """Newton's method on the objective, or on ones whose kinks are rounded less and less; and the last."""
    if not has_kinks(task.objective):
        return task, newton(task, guesses)
    softer, z = task, guesses
    for temperature in TEMPERATURES:
        objective = smoothed(task.objective, jnp.full(task.runs, temperature, task.reference.dtype))
        softer = eqx.tree_at(lambda task: task.objective, task, objective)
        found = newton(softer, z)
        z = found.z
    return softer, found


def _masked(z: Array, support: Array) -> Array:
    return jnp.where(support, z, -jnp.inf)


@eqx.filter_jit
def _newton_on_logits(task: _Task, guesses: Array, support: Array | None) -> Found:
    moves = task.objective.has_baseline or isinstance(task.problem, Online)

    def one(given: tuple[Objective, Array, Problem], support: Array | None, start: Array) -> Found:
        objective, reference, problem = given
        size = reference.shape[-1]
        marginals = None
        if not problem.online:
            marginals = problem.chosen_marginal(size), problem.rejected_marginal(size)

        def loss(z: Array, held: Array) -> Array:
            anchor = jnp.zeros((), z.dtype)
            if support is not None:
                # Logits that count for nothing are held at zero, so that the Hessian has no holes.
                anchor = jnp.sum(jnp.where(support, 0, z) ** 2) / 2
                z, held = _masked(z, support), _masked(held, support)
            log_probs = log_softmax(z)
            loss = objective.population_loss(
                log_probs, reference, problem, task.lengths, marginals, log_softmax(held)
            )
            return loss + anchor

        return minimise(loss, start, 1, moves=moves)

    problem = task.problem if isinstance(task.problem, Online) else task.problem.joint(task.size)
    return _over_starts(one)((task.objective, task.reference, problem), support, guesses)


@eqx.filter_jit
def _lbfgs_on_logits(task: _Task, guesses: Array) -> Found:
    def one(given: tuple[Objective, Array, Problem], _: None, start: Array) -> Found:
        objective, reference, problem = given

        def loss(z: Array) -> Array:
            return objective.population_loss(log_softmax(z), reference, problem, task.lengths)

        return minimise_large(loss, start, _mass(problem, start) + jnp.exp(reference))

    return _over_starts(one)((task.objective, task.reference, task.problem), None, guesses)


@eqx.filter_jit
def _shift_slope(task: _Task, log_probs: Array) -> Array:
    """How the loss grows with a constant added to all log-probabilities."""

    @eqx.filter_vmap
    def slope(objective: Objective, reference: Array, problem: Problem, log_probs: Array) -> Array:
        def loss(shift: Array) -> Array:
            return objective.population_loss(
                log_probs + shift, reference, problem, task.lengths, held=log_probs
            )

        return jax.grad(loss)(jnp.zeros((), log_probs.dtype))

    return slope(task.objective, task.reference, task.problem, log_probs)


def _in_family(task: _Task, policy: Policy, starts: int, batch: Shape) -> Solution:
    """The minimiser in the family of a policy, in its own parameters."""
    if policy.log_probs().shape != (task.size,):
        raise ValueError(
            f"`policy` must be one policy over {task.size} sequences; its log-probabilities have shape "
            f"{policy.log_probs().shape}"
        )
    trained, fixed = eqx.partition(policy, policy.trainable())
    flat, unravel = ravel_pytree(trained)
    if flat.size > _DENSE:
        raise ValueError(f"`policy` must have at most {_DENSE} parameters to solve for; got {flat.size}")
    if isinstance(task.objective, KeepsChosen):
        return _batched(_gradient_rule(task), batch)

    def log_probs_of(z: Array) -> Array:
        return eqx.combine(unravel(z), fixed).log_probs()

    idle = flat.size - int(jnp.linalg.matrix_rank(jax.jacfwd(log_probs_of)(flat)))
    # Log-probabilities of such a family are linear in its parameters up to the normaliser.
    convex = isinstance(policy, EnergyBased | LogLinear) and all(
        map(is_convex_in_logits, task.objective.terms)
    )
    starts = 1 if convex else starts
    noise = jax.random.normal(jax.random.key(0), (task.runs, starts, flat.size), flat.dtype)
    guesses = flat + noise.at[:, 0].set(0)

    @eqx.filter_jit
    def newton(task: _Task, guesses: Array) -> Found:
        def one(given: tuple[Objective, Array, Problem], _: None, start: Array) -> Found:
            objective, reference, problem = given

            def loss(z: Array, held: Array) -> Array:
                return objective.population_loss(
                    log_probs_of(z), reference, problem, task.lengths, held=log_probs_of(held)
                )

            moves = objective.has_baseline or problem.online
            return minimise(loss, start, idle, moves=moves)

        return _over_starts(one)((task.objective, task.reference, task.problem), None, guesses)

    task, found = _rounding_kinks(task, guesses, newton)
    best, ends, agreed = _best_of(found, jax.vmap(jax.vmap(log_probs_of))(found.z))
    solution = _solution(
        task,
        ends,
        "Newton on parameters",
        found=best,
        unique=best.converged if convex else None,
        starts=starts,
        agreed=agreed,
    )
    solution, parameters = _batched((solution, jax.vmap(unravel)(best.z)), batch)
    return Solution(solution.log_probs, solution.certificate, eqx.combine(parameters, fixed))


def _random(task: _Task, starts: int) -> Array:
    """Starts for each run: zero, and normal ones of growing spread."""
    shape = (task.runs, starts, task.size)
    noise = jax.random.normal(jax.random.key(0), shape, task.reference.dtype)
    return noise * jnp.arange(starts)[:, None] / 2


def _best_of(found: Found, ends: Array) -> tuple[Found, Array, Array | None]:
    """Of each run the start that ended lowest, of those that converged if any did; and whether all agree."""
    runs, starts = found.value.shape
    value = jnp.where(jnp.isfinite(found.value), found.value, jnp.inf)
    good = found.converged & jnp.isfinite(value)
    value = jnp.where(good | ~good.any(axis=1, keepdims=True), value, jnp.inf)
    which = jnp.argmin(value, axis=1)
    best: Found = jax.tree.map(lambda leaf: leaf[jnp.arange(runs), which], found)
    chosen = ends[jnp.arange(runs), which]
    if starts == 1:
        return best, chosen, None
    usable = jnp.where(jnp.isnan(ends), jnp.log(1 / ends.shape[-1]), ends)
    apart = jax.jit(js)(usable, jnp.where(jnp.isnan(chosen), jnp.log(1 / ends.shape[-1]), chosen)[:, None])
    return best, chosen, (good & (apart < 1e-9)).all(axis=1)


def has_convex_kernel(pair: Pair) -> bool:
    """Whether a pair's loss is convex in the difference of rewards."""
    return isinstance(pair.kernel, Logistic | Squared | Hinge | Exponential | Linear)


def is_convex_in_logits(term: Term) -> bool:
    """Whether a term is convex in the logits of a policy, from what it is made of.

    Differences of log-probabilities are linear in logits, and minus a log-probability is convex.
    """
    reward = term.reward
    if isinstance(term, Pair):
        linear = isinstance(reward, LogRatio | LogProb | LengthRegularised) and not (
            isinstance(reward, LogRatio | LogProb) and reward.per_token
        )
        return linear and has_convex_kernel(term) and term.chosen_reward is None
    assert isinstance(term, Single)
    falls = isinstance(term.kernel, Linear | Exponential) or _is_plain_logistic(term)
    return falls and isinstance(reward, LogRatio | LogProb) and term.push == "up" and term.baseline is None


def is_convex_in_log_probs(term: Term) -> bool:
    """Whether a term is convex in a free vector of log-probabilities, from what it is made of."""
    if not isinstance(term.reward, LogRatio | LogProb | LengthRegularised):
        return False
    if isinstance(term, Pair):
        # A kernel that falls, of a reward that is concave.
        guarded = isinstance(term.chosen_reward, Guarded) and _is_plain_logistic(term)
        return has_convex_kernel(term) and (term.chosen_reward is None or guarded)
    assert isinstance(term, Single)
    return isinstance(term.kernel, Logistic | Squared | Hinge | Exponential | Linear)


def _is_plain_logistic(term: Pair | Single) -> bool:
    kernel = term.kernel
    return isinstance(kernel, Logistic) and kernel.smoothing is None


def _is_likelihood(term: Single) -> bool:
    upwards = term.sequence == "chosen" and term.push == "up" and term.baseline is None
    return upwards and isinstance(term.kernel, Linear) and isinstance(term.reward, LogProb)


def _check_dense(task: _Task, what: str) -> None:
    if task.size > _DENSE:
        raise ValueError(f"`problem` must have at most {_DENSE} sequences for {what}; got one of {task.size}")


def _solution(
    task: _Task,
    log_probs: Array,
    method: str,
    *,
    found: Found | None = None,
    duality_gap: Any = jnp.nan,
    finite: Any = None,
    unique: Any = True,
    converged: Any = True,
    starts: int = 1,
    agreed: Any = None,
    compared: Comparisons | None = None,
    note: str = "",
) -> Solution:
    """A solution of all runs, with what is not given filled in."""
    if found is not None:
        converged = found.converged
    if finite is None:
        finite = jnp.isfinite(log_probs).all(axis=-1) & converged

    def of_runs(value: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(value), (task.runs,))

    shape = (task.runs, task.size)
    certificate = Certificate(
        method=method,
        gradient_norm=found.gradient if found is not None else _gradient_norm(task, log_probs),
        duality_gap=of_runs(duality_gap),
        last_step=of_runs(0.0 if found is None else found.step),
        finite=of_runs(finite),
        unique=None if unique is None else of_runs(unique),
        converged=of_runs(converged),
        starts=starts,
        agreed=None if agreed is None else of_runs(agreed),
        component=jnp.zeros(shape, int) if compared is None else jnp.asarray(compared.component),
        identified=jnp.ones(shape, bool) if compared is None else jnp.asarray(compared.identified),
        note=note,
    )
    return Solution(log_probs, certificate)


@eqx.filter_jit
def _gradient_norm(task: _Task, log_probs: Array) -> Array:
    """The largest entry of the gradient in logits, by magnitude; NaN at a loss with kinks."""
    problem = task.problem
    if has_kinks(task.objective) or not task.measured:
        return jnp.full(task.runs, jnp.nan)
    if task.size <= _DENSE and not isinstance(problem, Online):
        problem = problem.joint(task.size)

    @eqx.filter_vmap
    def norm(objective: Objective, reference: Array, problem: Problem, log_probs: Array) -> Array:
        def loss(logits: Array) -> Array:
            return objective.population_loss(log_softmax(logits), reference, problem, task.lengths)

        return jnp.max(jnp.abs(jax.grad(loss)(log_probs)))

    return norm(task.objective, task.reference, problem, log_probs)


def _batched(tree: PyTree, batch: Shape) -> Any:
    """Arrays with the batch axes of the arguments for their axis of runs."""
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), tree)


def _traced(
    objective: Objective, reference: LogProbsLike, problem: Problem, lengths: ArrayLike | None
) -> Array:
    """The closed form of a loss of differences, for values that are not known yet."""
    reference = _checks.distribution("reference", reference)
    size = reference.shape[-1]
    lengths = check_lengths(lengths, size)
    problem.check_size(size)
    batch = _checks.broadcast(
        reference=reference.shape[:-1], problem=problem.batch_shape, objective=objective.batch_shape
    )
    limit = _closed_form(objective, reference, problem, lengths)
    if limit is None:
        raise ValueError(
            "`fixed_point` has no closed form for this objective and problem, and must be called outside "
            "jit, vmap and grad to solve for it"
        )
    return jnp.broadcast_to(limit, (*batch, size))


def _closed_form(
    objective: Objective, reference: Array, problem: Problem, lengths: Array | None
) -> Array | None:
    """The closed form of a loss of differences, without a look at the values of anything."""
    (term, *more) = objective.terms
    if more or not isinstance(term, Pair) or term.chosen_reward is not None:
        return None
    if isinstance(problem, Online) and _is_plain_logistic(term):
        problem = problem.uniform()
    if not isinstance(problem, Contrastive | Labelled):
        return None
    h = best_reward(term.kernel, problem)
    if h is None:
        return None
    return term.reward.policy(h, reference, lengths)

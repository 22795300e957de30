"""Where an objective converges, in closed form."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from didsim import _checks
from didsim.information import LogProbs, LogProbsLike
from didsim.kernels import Exponential, Kernel, Logistic, Squared
from didsim.objectives import Objective, check_lengths
from didsim.online import Online
from didsim.pairwise import Analytic, potentials
from didsim.preferences import Contrastive, Labelled, Problem
from didsim.rewards import LogProb, LogRatio


def fixed_point(
    objective: Objective,
    reference: LogProbsLike,
    problem: Problem,
    lengths: Int[ArrayLike, " sequences"] | None = None,
) -> LogProbs:
    """The policy that minimises the population loss, among all distributions of full support.

    The loss depends on the policy through differences of its implicit reward `h` alone. The minimiser is
    found in two steps: the reward that minimises the expectation of the kernel, and the policy that has it.

    The best reward, up to a constant, with `π_w`, `π_l` the two distributions of a `Contrastive` problem and
    `r`, `μ1`, `μ2` the reward and samplers of a `Labelled` one:

    - logistic (DPO, SimPO, …): `log(π_w/π_l)`, or `r`. Per pair, the loss is minimal where
      `σ(h_i − h_j)` is the preference, and Bradley–Terry makes all pairs agree. So it is for `Online` pairs
      too, whatever their sampler.
    - exponential: half of that, since `p e^−d + (1 − p) e^d` is minimal at `d = log(p/(1 − p))/2`. (Derived
      here.)
    - squared (IPO), contrastive: `b·u`, with `u = (π_w − π_l)/(π_w + π_l)`, `b = (1/(2 tau)) / (1 + S/2)`,
      `S = Σ (π_w − π_l)²/(π_w + π_l)`. (Derived here; see `_squared`, which covers labelled pairs too.)

    The policy with reward `h`: `reference · exp(h/beta)`, normalised, for the log-ratio; `exp(h/beta)` for
    `log π`; `exp(|y| (h + c)/beta)` for the mean log-probability, with `c` the root of a scalar equation.

    So DPO ends at `reference · (π_w/π_l)^(1/beta)`, and SimPO without its margin, at equal lengths, at
    `(π_w/π_l)^(1/beta)`: under the power law the DID, not the target. (Derived here.)

    Args:
        objective: one of DPO, IPO, exponential, reference-free, and SimPO with `gamma=0`, or the same
            reward and kernel put together by hand.
        reference: the reference policy.
        problem: `Contrastive` or `Labelled`, of full support, or `Online` for the logistic loss.
        lengths: number of tokens of every sequence; by default they count as equal, of one token.

    Returns:
        Log-probabilities, with the batch axes of all arguments. O(N); as `didsim.pair_sum` for IPO on
        labelled pairs.

    Raises:
        ValueError: an argument is not normalised or has a zero, or shapes do not fit.
        NotImplementedError: there is no closed form for this objective and kind of problem.

    >>> from didsim import Contrastive, dpo, optimal_rejected
    >>> reference, target = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> problem = Contrastive(reference, optimal_rejected(reference, target, beta=0.1))
    >>> jnp.exp(fixed_point(dpo(beta=0.1), reference, problem)).tolist()
    [0.2, 0.3, 0.5]
    """
    reference = _checks.distribution("reference", reference, full_support=True)
    lengths = check_lengths(lengths, reference.shape[-1])
    _checks.instance("objective", objective, Objective, "an Objective, as didsim.dpo() makes")
    if objective.chosen_weight is not None or not isinstance(objective.reward, LogRatio | LogProb):
        raise NotImplementedError(
            "`objective` has no closed-form minimiser: it must be a loss of differences of a log-ratio or "
            "log-probability alone, without a likelihood term"
        )
    if isinstance(problem, Online) and isinstance(objective.kernel, Logistic):
        problem = problem.uniform()
    if not isinstance(problem, Contrastive | Labelled):
        raise NotImplementedError(
            "`problem` must be Contrastive or Labelled for a closed-form minimiser; "
            f"got {type(problem).__name__}"
        )
    problem.check_size(reference.shape[-1])
    names = ("chosen", "rejected") if isinstance(problem, Contrastive) else ("first", "second")
    for name in names:
        _checks.distribution(f"problem.{name}", getattr(problem, name), full_support=True)
    shapes = {"reference": reference.shape[:-1], "problem": problem.batch_shape}
    batch = _checks.broadcast(**shapes, objective=objective.batch_shape)
    limit = _solve(objective, reference, problem, lengths)
    return jnp.broadcast_to(limit, (*batch, reference.shape[-1]))


@eqx.filter_jit
def _solve(
    objective: Objective, reference: Array, problem: Contrastive | Labelled, lengths: Array | None
) -> LogProbs:
    h = _best_reward(objective.kernel, problem)
    return objective.reward.policy(h, reference, lengths)


def _best_reward(kernel: Kernel, problem: Contrastive | Labelled) -> Array:
    if isinstance(problem, Contrastive):
        first, second = problem.chosen, problem.rejected
        bradley_terry = first - second
    else:
        first, second = problem.first, problem.second
        bradley_terry = problem.reward
    match kernel:
        case Logistic(smoothing=None, margin=None):
            return bradley_terry
        case Exponential():
            return bradley_terry / 2
        case Squared(centre=centre):
            pull = _contrastive_pull if isinstance(problem, Contrastive) else _labelled_pull
            return centre[..., None] * jnp.vectorize(_squared, signature="(n),(n),(n)->(n)")(
                first, second, pull(first, second, bradley_terry)
            )
        case _:
            raise NotImplementedError(
                f"`objective` has no closed-form minimiser for its kernel {kernel}; there is one for "
                "the logistic without smoothing and margin, the squared, and the exponential"
            )


def _squared(first: Array, second: Array, pull: Array) -> Array:
    """The reward that minimises `E (d − 1)²` over pairs, up to a constant.

    Let `A`, `B` be the probabilities of the two sequences that are drawn, and `pull_i` the difference of the
    probabilities of choosing and rejecting `i`, over `A_i + B_i`. Setting the derivative in `h_i` to zero:

        Σ_j (A_i B_j + B_i A_j)(h_i − h_j) = (A_i + B_i) pull_i
        (A_i + B_i) h_i − A_i Σ_j B_j h_j − B_i Σ_j A_j h_j = (A_i + B_i) pull_i.

    The constant of `h` is free: take the one for which the sums are `c = Σ_j B_j h_j` and `Σ_j A_j h_j = −c`.
    Then `h_i = pull_i + c u_i` with `u = (A − B)/(A + B) = tanh((log A − log B)/2)`. As `Σ_j B_j u_j = −S/2`
    with `S = Σ (A − B)²/(A + B)`, putting `h` into its own sum gives `c = Σ_j B_j pull_j / (1 + S/2)`.

    For contrastive pairs `pull = u`, so that `h = u / (1 + S/2)`.
    """
    u = jnp.tanh((first - second) / 2)
    half_s = jnp.sum((jnp.exp(first) - jnp.exp(second)) * u) / 2
    return pull + u * jnp.sum(jnp.exp(second) * pull) / (1 + half_s)


def _contrastive_pull(first: Array, second: Array, _: Array) -> Array:
    return jnp.tanh((first - second) / 2)


def _half_tanh(d: Array) -> Array:
    return jnp.tanh(d / 2)


_HALF_TANH = Analytic(_half_tanh, strip=math.pi)


def _labelled_pull(first: Array, second: Array, reward: Array) -> Array:
    """`E_j tanh((r_i − r_j)/2)`, where `j` is the partner with which `i` is drawn."""
    share = jax.nn.sigmoid(first - second)
    of_second, of_first = potentials(_HALF_TANH, jnp.exp(first), jnp.exp(second), reward)
    return share * of_second - (1 - share) * of_first

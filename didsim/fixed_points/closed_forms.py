"""Rewards that minimise the expectation of a kernel over all pairs, where they are known in closed form."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from didsim.objectives.kernels import Exponential, Kernel, Logistic, Squared
from didsim.pairwise.forms import Analytic
from didsim.pairwise.sums import potentials
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled


def best_reward(kernel: Kernel, problem: Contrastive | Labelled) -> Array | None:
    """The reward that minimises `E kernel(h_chosen − h_rejected)`, up to a constant, or None if unknown.

    With `π_w`, `π_l` the two distributions of a `Contrastive` problem and `r`, `μ1`, `μ2` the reward and
    samplers of a `Labelled` one, all of full support:

    - logistic: `log(π_w/π_l)`, or `r`. Per pair, the loss is minimal where `σ(h_i − h_j)` is the preference,
      and Bradley–Terry makes all pairs agree.
    - exponential: half of that, since `p e^−d + (1 − p) e^d` is minimal at `d = log(p/(1 − p))/2`. (Derived
      here.)
    - squared, contrastive: `b·u`, with `u = (π_w − π_l)/(π_w + π_l)`, `b = centre / (1 + S/2)`,
      `S = Σ (π_w − π_l)²/(π_w + π_l)`. (Derived here; see `_squared`, which covers labelled pairs too.)
    """
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
    return None


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

"""Section 7: sums over all pairs in near-linear time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, softplus
from jaxtyping import Array
from numpy.polynomial import chebyshev

from didsim.objectives.kernels import SURPRISE, Hinge, Squared
from didsim.pairwise.sums import unchecked_pair_sum
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, exact, largest, off

_MANY = 96


@exact(
    7,
    OURS,
    "The loss of labelled pairs separates: p s(−Δ) + (1 − p) s(Δ) = s(−Δ) + (1 − p) Δ; s is the softplus",
)
def labelled_pairs_separate(case: Case) -> Array:
    """Both sides for every pair."""
    p = sigmoid(case.reward[:, None] - case.reward[None, :])
    d = case.target[:, None] - case.target[None, :]
    return off(p * softplus(-d) + (1 - p) * softplus(d), softplus(-d) + (1 - p) * d, d)


@exact(
    7,
    OURS,
    "Chebyshev expansions of the softplus converge like ρ^−m, ρ = π/A + √(1 + (π/A)²)",
    most=32,
    sizes=(8,),
)
def chebyshev_rate(case: Case) -> float:
    """The error of interpolation against Bernstein's bound, `4 M r^−m / (r − 1)` for any `r < ρ`.

    `M` is the largest value on the ellipse of `r`. In float64 the error has a floor of rounding.
    """
    numbers = np.random.default_rng(np.asarray(jax.random.key_data(case.key)))
    half_range = 10 ** numbers.uniform(-0.5, 1.3)
    rho = np.pi / half_range + np.sqrt(1 + (np.pi / half_range) ** 2)
    r = 1 + 0.95 * (rho - 1)
    on_circle = r * np.exp(1j * np.linspace(0, 2 * np.pi, 2000))
    ellipse = half_range * (on_circle + 1 / on_circle) / 2
    bound = (
        np.abs(np.log1p(np.exp(-np.abs(ellipse.real)) * np.exp(1j * ellipse.imag))).max()
        + np.abs(ellipse).max()
    )
    x = np.linspace(-1, 1, 1001)
    exact_values = np.logaddexp(0, half_range * x)
    worst = 0.0
    for degree in (4, 16, 64):
        fitted = chebyshev.chebinterpolate(lambda t: np.logaddexp(0, half_range * t), degree)
        error = np.abs(chebyshev.chebval(x, fitted) - exact_values).max()
        allowed = 4 * bound * r ** -float(degree) / (r - 1)
        worst = max(worst, (error - allowed) / (1 + half_range))
    return max(0.0, worst)


@exact(
    7,
    OURS,
    "Sums over pairs of 96 sequences, contrastive and labelled, agree with a double loop",
    most=64,
    sizes=(8,),
)
def sums_of_a_double_loop(case: Case) -> float:
    """The near-linear engine, at half-ranges of rewards up to 40."""
    numbers = np.random.default_rng(np.asarray(jax.random.key_data(case.key)))
    x = numbers.uniform(-1, 1, _MANY) * 10 ** numbers.uniform(-1, 1.6)
    chosen, rejected = (numbers.dirichlet(np.ones(_MANY)) for _ in range(2))
    reward = numbers.normal(size=_MANY)
    d = x[:, None] - x[None, :]
    surprise = np.logaddexp(0, -d)
    contrastive = chosen @ surprise @ rejected
    wins = 1 / (1 + np.exp(-(reward[:, None] - reward[None, :])))
    labelled = np.sum(np.outer(chosen, rejected) * (wins * surprise + (1 - wins) * np.logaddexp(0, d)))
    problem = Labelled(reward, np.log(chosen), np.log(rejected))
    return float(
        largest(
            jnp.abs(_contrastive_sum(chosen, rejected, x) / contrastive - 1),
            jnp.abs(_labelled_sum(problem, x) / labelled - 1),
        )
    )


@exact(
    7,
    OURS,
    "Sums of squared differences need only moments, and sums of hinges only a sort and running sums",
    most=64,
    sizes=(8,),
)
def moments_and_sorting(case: Case) -> float:
    """IPO's and the hinge's sums over pairs of 96 sequences against a double loop."""
    numbers = np.random.default_rng(np.asarray(jax.random.key_data(case.key)))
    x = numbers.uniform(-1, 1, _MANY) * 10 ** numbers.uniform(-1, 2.5)
    chosen, rejected = (numbers.dirichlet(np.ones(_MANY)) for _ in range(2))
    d = x[:, None] - x[None, :]
    squared, hinge = chosen @ (d - 1) ** 2 @ rejected, chosen @ np.maximum(0, 1 - d) @ rejected
    found = _square_and_hinge(chosen, rejected, x)
    return float(max(abs(found[0] / squared - 1), abs(found[1] / hinge - 1)))


@jax.jit
def _square_and_hinge(chosen: Array, rejected: Array, x: Array) -> tuple[Array, Array]:
    problem = Contrastive(jnp.log(chosen), jnp.log(rejected))
    one = jnp.ones(())
    return Squared(one).expect(problem, jnp.asarray(x)), Hinge(one).expect(problem, jnp.asarray(x))


@jax.jit
def _contrastive_sum(chosen: Array, rejected: Array, x: Array) -> Array:
    return unchecked_pair_sum(SURPRISE, *map(jnp.asarray, (chosen, rejected, x)))


@jax.jit
def _labelled_sum(problem: Labelled, x: Array) -> Array:
    return problem.expect(SURPRISE, jnp.asarray(x))

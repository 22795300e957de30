"""Random updates of six families, for experiments that count signs over thousands of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.progress import track
from scipy.stats import binomtest

import didsim

Pair = tuple[Array, Array]


def normal(key: Array, space: didsim.SequenceSpace) -> Pair:
    """Reference and target with independent normal logits, each of its own scale."""
    scales, one, two = jax.random.split(key, 3)
    first, second = jax.random.uniform(scales, (2,), minval=0.2, maxval=2.0)
    return didsim.normal_logits(one, space.size, first), didsim.normal_logits(two, space.size, second)


def dirichlet(key: Array, space: didsim.SequenceSpace) -> Pair:
    """Reference and target from Dirichlet distributions, each of its own concentration."""
    scales, one, two = jax.random.split(key, 3)
    first, second = 10 ** jax.random.uniform(scales, (2,), minval=-0.5, maxval=1.0)
    return didsim.dirichlet(one, space.size, first), didsim.dirichlet(two, space.size, second)


def zipf(key: Array, space: didsim.SequenceSpace) -> Pair:
    """Reference and target with Zipf's law, each with its own order of ranks and its own exponent."""
    scales, one, two = jax.random.split(key, 3)
    first, second = jax.random.uniform(scales, (2,), minval=0.2, maxval=1.5)
    return didsim.zipf(space.size, first, one), didsim.zipf(space.size, second, two)


def markov(key: Array, space: didsim.SequenceSpace) -> Pair:
    """Two random Markov chains for reference and target, each of its own scale."""
    scales, one, two = jax.random.split(key, 3)
    first, second = jax.random.uniform(scales, (2,), minval=0.2, maxval=1.5)
    return didsim.markov(one, space, first), didsim.markov(two, space, second)


def tempered(key: Array, space: didsim.SequenceSpace) -> Pair:
    """A reference with normal logits, and the reference to the power of an exponent from 0.1 to 3."""
    scale, one = jax.random.split(key)
    exponent = jax.random.uniform(scale, minval=0.1, maxval=3.0)
    reference = didsim.normal_logits(one, space.size)
    return reference, didsim.temper(reference, exponent)


def best_of_n(key: Array, space: didsim.SequenceSpace) -> Pair:
    """A reference, and the best of 2 to 16 draws from it by a score correlated with its log-probabilities."""
    scale, correlation, one, two = jax.random.split(key, 4)
    n = 2 ** jax.random.uniform(scale, minval=1.0, maxval=4.0)
    rho = jax.random.uniform(correlation, minval=-1.0, maxval=1.0)
    reference = didsim.normal_logits(one, space.size)
    own = (reference - reference.mean()) / reference.std()
    score = rho * own + jnp.sqrt(1 - rho**2) * jax.random.normal(two, (space.size,))
    return reference, didsim.best_of_n(reference, score, n)


RANDOM_UPDATES: dict[str, Callable[[Array, didsim.SequenceSpace], Pair]] = {
    "normal": normal,
    "dirichlet": dirichlet,
    "zipf": zipf,
    "markov": markov,
    "tempered": tempered,
    "best_of_n": best_of_n,
}


def draw_updates(
    seed: int, instances: int, space: didsim.SequenceSpace, progress: str | bool
) -> tuple[Float[Array, "families instances sequences"], Float[Array, "families instances sequences"]]:
    """References and targets of every family of `RANDOM_UPDATES`.

    Args:
        seed: seed of all random numbers.
        instances: number of updates of each family.
        space: the sequences.
        progress: the words beside a progress bar, or False for none.
    """
    drawn = []
    families = track(RANDOM_UPDATES.values(), str(progress), disable=not progress)
    for place, family in enumerate(families):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), place), instances)
        drawn.append(jax.jit(jax.vmap(lambda key, make=family: make(key, space)))(keys))
    references, targets = zip(*drawn, strict=True)
    return jnp.stack(references), jnp.stack(targets)


def wilson_intervals(shares: Float[np.ndarray, "*shape"], instances: int) -> Float[np.ndarray, "*shape ends"]:
    """95% Wilson intervals of shares, each of so many instances."""
    ends = [
        binomtest(round(p * instances), instances).proportion_ci(method="wilson") for p in np.ravel(shares)
    ]
    return np.reshape([[one.low, one.high] for one in ends], (*np.shape(shares), 2))

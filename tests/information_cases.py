"""What several test files of this folder share."""

import math
from collections.abc import Callable

import jax
import numpy as np

from didsim import bayes_update, did, did_entropy, entropy, geodesic, js, kl, total_variation

MEASURES: dict[str, Callable[..., jax.Array]] = {
    "entropy": entropy,
    "kl": kl,
    "js": js,
    "total_variation": total_variation,
    "did_entropy": did_entropy,
}
TWO = ("kl", "js", "total_variation", "did_entropy")
# One program for each shape, which compiles sooner than its operations one by one.
JIT = {name: jax.jit(measure) for name, measure in MEASURES.items()}
JIT |= {"did": jax.jit(did), "bayes_update": jax.jit(bayes_update), "geodesic": jax.jit(geodesic)}

P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
WITH_ZERO = np.log([0.4, 0.6, 1.0]) + np.array([0, 0, -np.inf])


def weighted(p: np.ndarray, values: np.ndarray) -> float:
    """`Σ p f`, correctly rounded, where probability zero counts for nothing."""
    return math.fsum(math.exp(a) * b for a, b in zip(p, values, strict=True) if a > -np.inf)

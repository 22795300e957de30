"""Hypothesis strategies for policies, ordinary and hostile, as NumPy arrays of normalised log-probabilities.

Sizes come from a short list, so that shapes, each of which JAX compiles for, repeat.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax

SIZES = (1, 2, 3, 5, 8, 17)

sizes = st.sampled_from(SIZES)
betas = st.sampled_from((1e-3, 0.05, 0.1, 0.5, 1.0, 2.0, 10.0, 1e3))


def _values(size: int, low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    # 32-bit values shrink to readable numbers and still differ from one another.
    elements = st.floats(low, high, width=32)
    return hnp.arrays(np.float64, size, elements=elements)


def ordinary_logits(size: int) -> st.SearchStrategy[np.ndarray]:
    """Logits within a few nats."""
    return _values(size, -3, 3)


def near_deterministic_logits(size: int) -> st.SearchStrategy[np.ndarray]:
    """One sequence far above the others."""

    def spike(logits: np.ndarray, place: int, height: float) -> np.ndarray:
        return logits + height * (np.arange(size) == place)

    return st.builds(
        spike, ordinary_logits(size), st.integers(0, size - 1), st.sampled_from((20.0, 50.0, 200.0))
    )


def extreme_logits(size: int) -> st.SearchStrategy[np.ndarray]:
    """Logits up to ±700, the ends included."""
    return hnp.arrays(
        np.float64,
        size,
        elements=st.one_of(st.sampled_from((-700.0, 0.0, 700.0)), st.floats(-700, 700, width=32)),
    )


def uniform_logits(size: int) -> st.SearchStrategy[np.ndarray]:
    """All logits alike."""
    return st.just(np.zeros(size))


def hostile_logits(size: int) -> st.SearchStrategy[np.ndarray]:
    """Any of these kinds."""
    return st.one_of(
        ordinary_logits(size),
        near_deterministic_logits(size),
        extreme_logits(size),
        uniform_logits(size),
    )


def ordinary_policies(size: int) -> st.SearchStrategy[np.ndarray]:
    """Log-probabilities within a few nats of one another."""
    return ordinary_logits(size).map(log_softmax)


def policies(size: int) -> st.SearchStrategy[np.ndarray]:
    """Log-probabilities of any kind."""
    return hostile_logits(size).map(log_softmax)


@st.composite
def tuples(draw: st.DrawFn, number: int, *, hostile: bool = True) -> tuple[np.ndarray, ...]:
    """Policies over one space, sometimes equal to one another."""
    size = draw(sizes)
    one = policies(size) if hostile else ordinary_policies(size)
    drawn = [draw(one)]
    for _ in range(number - 1):
        drawn.append(draw(st.one_of(one, st.just(drawn[0]))))
    return tuple(drawn)

"""What several test files of this folder share."""

import equinox as eqx
import jax
import numpy as np
from hypothesis import strategies as st
from scipy.special import log_softmax

from didsim import Contrastive, Joint, Labelled, Pairs, Problem
from tests.strategies import hostile_logits, ordinary_logits

KEY = jax.random.key(0)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
REWARD = np.array([1.0, -0.5, 0.25])
DATA = Pairs(np.array([0, 0, 1, 2, 0]), np.array([1, 2, 0, 0, 1]), np.array([1.0, 2.0, 0.5, 0.0, 3.0]))
PROBLEMS = {
    "contrastive": Contrastive(P, Q),
    "labelled": Labelled(REWARD, P, Q),
    "pairs": DATA,
    "joint": Joint(np.log([[0.1, 0.3, 0.05], [0.05, 0.1, 0.15], [0.2, 0.04, 0.01]])),
}

few_sizes = st.sampled_from((1, 2, 5))
PREFERENCE = eqx.filter_jit(lambda problem, i, j: problem.preference(i, j))
EXPECT = eqx.filter_jit(lambda problem, x: problem.expect(jax.nn.softplus, x))
ACROSS = eqx.filter_jit(lambda problem, x, y: problem.expect_across(jax.nn.softplus, x, y))
EXPECT_EXP = eqx.filter_jit(lambda problem, x: problem.expect_exp(x))
MARGINALS = eqx.filter_jit(lambda problem, n: (problem.chosen_marginal(n), problem.rejected_marginal(n)))


@st.composite
def problems(draw: st.DrawFn, *, hostile: bool = True) -> tuple[Problem, int]:
    size = draw(few_sizes)
    logits = hostile_logits(size) if hostile else ordinary_logits(size)
    one = logits.map(log_softmax)
    kind = draw(st.sampled_from(["contrastive", "labelled", "pairs", "joint"]))
    if kind == "contrastive":
        return Contrastive(draw(one), draw(one)), size
    if kind == "labelled":
        return Labelled(draw(logits), draw(one), draw(one)), size
    if kind == "joint":
        return Joint(log_softmax(np.stack([draw(logits) for _ in range(size)]))), size
    indices = st.lists(st.integers(0, size - 1), min_size=4, max_size=4).map(np.array)
    weights = st.lists(st.floats(0, 5, width=32), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-3)
    return Pairs(draw(indices), draw(indices), np.array(draw(weights))), size


# The chance that a right sampler fails one of these tests is 1e-6.
SIGNIFICANCE = 1e-6

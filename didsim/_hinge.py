"""The minimisers of an expected hinge loss, by a linear program."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import NegativeCycleError, shortest_path

_SAME = 1e-8  # of a pair's weight: flows are found to 1e-10 of the largest weight


class HingeSolution(NamedTuple):
    """A minimiser of `Σ_ij W_ij max(0, 1 − (h_i − h_j))`.

    Attributes:
        h: the rewards, whole numbers, the first of them 0.
        gap: the loss less the lower bound that the dual program proves.
        spread: by how much differences of rewards can vary among minimisers, at most: 0 if there is one.
        solved: whether the linear program ended well, and its solution is consistent.
    """

    h: Float[np.ndarray, " sequences"]
    gap: float
    spread: float
    solved: bool


def minimise_hinge(weights: Float[np.ndarray, "sequences sequences"]) -> HingeSolution:
    """Minimise an expected hinge loss with unit margin.

    The dual of the program in the slacks is a circulation: flows `0 ≤ f_ij ≤ W_ij` from `i` to `j`, as much
    into every node as out of it, of the largest total. By complementary slackness `h` is a minimiser if
    and only if, for every pair that occurs,

        f_ij < W_ij  ⟹  h_i − h_j ≥ 1,    f_ij > 0  ⟹  h_i − h_j ≤ 1.

    These are bounds on differences, whole numbers all, so that shortest paths over them are a minimiser on
    a grid of unit spacing, and the longest and shortest differences that they allow tell whether it
    is the only one. (Derived here.) O(N²) variables; N³ for the paths.
    """
    size = len(weights)
    weights = weights / weights.max()
    winners, losers = np.nonzero((weights > 0) & ~np.eye(size, dtype=bool))
    if not len(winners):
        return HingeSolution(np.zeros(size), 0.0, np.inf if size > 1 else 0.0, True)
    capacity = weights[winners, losers]
    pairs = np.arange(len(winners))
    balance = coo_array(
        (
            np.concatenate([np.ones(len(pairs)), -np.ones(len(pairs))]),
            (np.concatenate([winners, losers]), np.concatenate([pairs, pairs])),
        ),
        shape=(size, len(pairs)),
    ).tocsr()
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    bounds = np.stack([np.zeros(len(pairs)), capacity], axis=1)
    result = linprog(
        -np.ones(len(pairs)),
        A_eq=balance,
        b_eq=np.zeros(size),
        bounds=bounds,
        method="highs",
        options=tolerances,
    )
    if result.status != 0:
        return HingeSolution(np.full(size, np.nan), np.nan, np.nan, False)
    flow = result.x
    # An edge i → j of length c says h_j − h_i ≤ c.
    bound = np.full((size, size), np.inf)
    at_least, at_most = flow < (1 - _SAME) * capacity, flow > _SAME * capacity
    np.minimum.at(bound, (winners[at_least], losers[at_least]), -1.0)
    np.minimum.at(bound, (losers[at_most], winners[at_most]), 1.0)
    np.fill_diagonal(bound, 0)
    try:
        # A dense graph's zeros and infinities are no edges; the bounds are -1 and 1, all others.
        reach = shortest_path(np.where(np.isfinite(bound), bound, 0), method="FW")
    except NegativeCycleError:
        return HingeSolution(np.full(size, np.nan), np.nan, np.nan, False)
    h = _feasible(reach)
    differences = h[:, None] - h[None, :]
    loss = np.sum(weights * np.maximum(0, 1 - differences)) - np.trace(weights)
    spread = float((reach + reach.T).max())
    return HingeSolution(h, float(loss - flow.sum()), spread, True)


def _feasible(reach: Float[np.ndarray, "sequences sequences"]) -> Float[np.ndarray, " sequences"]:
    """Whole numbers whose differences are within shortest paths, each as near as may be to the middle.

    Fixing them one by one, each between the bounds that those before it leave.
    """
    size = len(reach)
    h = np.zeros(size)
    for node in range(1, size):
        high = (h[:node] + reach[:node, node]).min()
        low = (h[:node] - reach[node, :node]).max()
        h[node] = _between(low, high)
    return h


def _between(low: float, high: float) -> float:
    if np.isinf(low) and np.isinf(high):
        return 0.0
    if np.isinf(low):
        return high
    if np.isinf(high):
        return low
    return float(np.floor((low + high) / 2))

"""The linear program of the hinge."""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used: most solutions need no linear program
from jaxtyping import Float

_SAME = 1e-8  # of a pair's weight, or of the largest flow
_NOISE = 1e-14  # of the largest flow
_PROVEN = 1e-6  # of the loss


class HingeSolution(NamedTuple):
    """A minimiser of `Σ_ij W_ij max(0, 1 − (h_i − h_j))`.

    Attributes:
        h: the rewards: whole numbers, the first of them 0.
        gap: the loss less a lower bound on the minimum. The flows prove the bound even if they are not quite
            balanced.
        spread: the most that a difference of rewards can vary among minimisers; 0 if there is only one.
        solved: whether the linear program ended well, and the gap is at most 1e-6 of the loss.
    """

    h: Float[np.ndarray, " sequences"]
    gap: float
    spread: float
    solved: bool


def minimise_hinge(weights: Float[np.ndarray, "sequences sequences"]) -> HingeSolution:
    """Minimise an expected hinge loss with unit margin.

    The dual of the program in the slacks is a circulation of largest total: flows `0 ≤ f_ij ≤ W_ij` from `i`
    to `j`, of which as much enters every node as leaves it. By complementary slackness `h` is a minimiser if
    and only if, for every pair that occurs,

        f_ij < W_ij  ⟹  h_i − h_j ≥ 1,    f_ij > 0  ⟹  h_i − h_j ≤ 1.

    These are bounds on differences, and all of them are whole numbers. Shortest paths over the bounds are
    therefore a minimiser on a grid of unit spacing. The longest and the shortest difference that the bounds
    allow tell whether it is the only one. (Derived here.) O(N²) variables, and O(N³) time for the paths.

    The program's tolerances are relative to the largest capacity. So capacities are first cut to what can
    flow. Suppose that flows keep their bounds but have surpluses `b_i`, outflow less inflow. Then the loss of
    any `h` is at least `Σ_ij f_ij (1 − h_i + h_j) = Σ f − Σ_i b_i h_i`, and some minimiser has all `h` within
    `N − 1` of each other. This bounds the gap. (Derived here.)
    """
    size = len(weights)
    weights = np.where(np.eye(size, dtype=bool), 0, weights)
    if not weights.any():
        return HingeSolution(np.zeros(size), 0.0, np.inf if size > 1 else 0.0, True)
    # Loaded when it is needed: that takes a quarter of a second, and few losses have a hinge.
    from scipy.optimize import linprog

    largest = weights.max()
    weights = weights / largest
    within = _what_can_flow(weights)
    winners, losers = np.nonzero(weights)
    capacity = weights[winners, losers]
    unit = within.max() or 1.0
    pairs = np.arange(len(winners))
    balance = scipy.sparse.coo_array(
        (
            np.concatenate([np.ones(len(pairs)), -np.ones(len(pairs))]),
            (np.concatenate([winners, losers]), np.concatenate([pairs, pairs])),
        ),
        shape=(size, len(pairs)),
    ).tocsr()
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    bounds = np.stack([np.zeros(len(pairs)), within[winners, losers] / unit], axis=1)
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
    flow = np.clip(unit * result.x, 0, capacity)
    # An edge i → j of length c says h_j − h_i ≤ c.
    bound = np.full((size, size), np.inf)
    least = np.maximum(_SAME * np.minimum(capacity, flow.max()), _NOISE * flow.max())
    at_least, at_most = flow < (1 - _SAME) * capacity, flow > least
    np.minimum.at(bound, (winners[at_least], losers[at_least]), -1.0)
    np.minimum.at(bound, (losers[at_most], winners[at_most]), 1.0)
    np.fill_diagonal(bound, 0)
    try:
        # A dense graph's zeros and infinities are no edges; the bounds are -1 and 1, all others.
        reach = scipy.sparse.csgraph.shortest_path(np.where(np.isfinite(bound), bound, 0), method="FW")
    except scipy.sparse.csgraph.NegativeCycleError:
        return HingeSolution(np.full(size, np.nan), np.nan, np.nan, False)
    h = _feasible(reach)
    differences = h[:, None] - h[None, :]
    loss = np.sum(weights * np.maximum(0, 1 - differences))
    gap = loss - flow.sum() + (size - 1) * np.abs(balance @ flow).sum()
    spread = float((reach + reach.T).max())
    return HingeSolution(h, float(gap * largest), spread, bool(gap <= _PROVEN * loss + np.finfo(float).tiny))


def _what_can_flow(
    weights: Float[np.ndarray, "sequences sequences"],
) -> Float[np.ndarray, "sequences sequences"]:
    """Capacities cut to what can flow into their start, and on from their end."""
    for _ in range(len(weights)):
        smaller = np.minimum(weights, np.minimum(weights.sum(axis=0)[:, None], weights.sum(axis=1)[None, :]))
        if np.array_equal(smaller, weights):
            break
        weights = smaller
    return weights


def _feasible(reach: Float[np.ndarray, "sequences sequences"]) -> Float[np.ndarray, " sequences"]:
    """Whole numbers whose differences keep the bounds of shortest paths, each close to the middle.

    They are fixed one by one, each between the bounds that the earlier ones leave.
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

"""Made comparisons, and the textbook's likelihoods as double loops."""

from typing import Any

import numpy as np

from didsim import Pairs


def games(size: int, count: int, seed: int = 0, spread: float = 1.0) -> Pairs:
    """Pairs drawn from a Bradley–Terry model, after one win of each item over the next, in a circle."""
    random = np.random.default_rng(seed)
    reward = spread * random.normal(size=size)
    first = random.integers(size, size=count)
    second = (first + random.integers(1, size, size=count)) % size
    won = random.random(count) < 1 / (1 + np.exp(reward[second] - reward[first]))
    circle = np.arange(size)
    winners = np.concatenate([circle, np.where(won, first, second)])
    losers = np.concatenate([(circle + 1) % size, np.where(won, second, first)])
    return Pairs(winners, losers)


def log_likelihood(data: Pairs, r: Any, ties: str = "half", parameter: float = 0.0) -> float:
    """The log-likelihood of pairs, one after another."""
    total = 0.0
    count = len(data.winners)
    tied = np.zeros(count, bool) if data.tied is None else np.asarray(data.tied)
    weights = np.ones(count) if data.weights is None else np.asarray(data.weights, float)
    for k in range(count):
        a, b = float(r[int(data.winners[k])]), float(r[int(data.losers[k])])
        if ties == "half":
            win, loss = 1 / (1 + np.exp(b - a)), 1 / (1 + np.exp(a - b))
            said = (np.log(win) + np.log(loss)) / 2 if tied[k] else np.log(win)
        elif ties == "davidson":
            nu = np.exp(parameter)
            whole = np.exp(a) + np.exp(b) + nu * np.exp((a + b) / 2)
            said = np.log((nu * np.exp((a + b) / 2) if tied[k] else np.exp(a)) / whole)
        else:
            theta = np.exp(parameter)
            win = np.exp(a) / (np.exp(a) + theta * np.exp(b))
            loss = np.exp(b) / (np.exp(b) + theta * np.exp(a))
            said = np.log(1 - win - loss) if tied[k] else np.log(win)
        total += weights[k] * said
    return total

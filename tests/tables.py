"""The distribution of pairs of a problem, entry by entry from its definition."""

import numpy as np
from scipy.special import log_expit

from didsim import Contrastive, Joint, Labelled, Mixture, Pairs, Problem


def table(problem: Problem, size: int) -> np.ndarray:
    """The log-probability that `i` is chosen and `j` rejected. Of a problem without batch axes."""
    with np.errstate(divide="ignore"):
        if isinstance(problem, Pairs):
            weights = (
                np.ones(problem.winners.shape) if problem.weights is None else np.asarray(problem.weights)
            )
            share = np.zeros((size, size))
            for winner, loser, weight in zip(problem.winners, problem.losers, weights, strict=True):
                share[int(winner), int(loser)] += weight / weights.sum()
            return np.log(share)
        if isinstance(problem, Contrastive):
            return np.add.outer(np.asarray(problem.chosen), np.asarray(problem.rejected))
        if isinstance(problem, Labelled):
            first, second, reward = map(np.asarray, (problem.first, problem.second, problem.reward))
            shown = np.logaddexp(np.add.outer(first, second), np.add.outer(second, first))
            return shown + log_expit(np.subtract.outer(reward, reward))
        if isinstance(problem, Mixture):
            parts = [table(part, size) for part in problem.problems]
            weighted = [w + part for w, part in zip(np.asarray(problem.log_weights), parts, strict=True)]
            return np.logaddexp.reduce(weighted)
    assert isinstance(problem, Joint)
    return np.asarray(problem.log_probs)


def expectation(log_table: np.ndarray, values: np.ndarray) -> float:
    """The sum of a value for every pair, over those that occur."""
    weights = np.exp(log_table)
    return float(np.sum(weights * np.where(weights > 0, values, 0)))

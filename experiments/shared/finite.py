"""What experiments on finite data share."""

import numpy as np
from jaxtyping import Bool

import didsim
from didsim.fixed_points.win_graph import compare


def has_minimiser(pairs: didsim.Pairs, size: int) -> Bool[np.ndarray, " datasets"]:
    """Whether DPO has a minimiser on each dataset: chains of wins lead from every sequence to every other.

    Otherwise some part of the sequences is never beaten from outside, and its rewards can rise for ever
    (Ford, "Solution of a ranking problem from binary comparisons", 1957).

    Args:
        pairs: the datasets, with one batch axis.
        size: the number of sequences.
    """
    (datasets,) = pairs.batch_shape
    return np.asarray(compare(pairs, size, datasets, both_ways=True).identified.all(axis=-1))

"""Which sequences the pairs compare: the components of the graph of wins."""

from typing import NamedTuple

import jax
import numpy as np
import scipy  # its parts are loaded when they are used: most solutions need no graph
from jaxtyping import Bool, Int

from didsim.preferences.problem import Problem


class Comparisons(NamedTuple):
    """The components of the graph of wins, for each entry of a batch (see `compare`).

    Attributes:
        component: a number for every sequence; sequences of one component share it.
        identified: whether a sequence is in the largest component.
        together: a number for every sequence; sequences that any chain of comparisons joins share it.
        unbeaten: whether a sequence is in a component that no other component wins against.
    """

    component: Int[np.ndarray, "runs sequences"]
    identified: Bool[np.ndarray, "runs sequences"]
    together: Int[np.ndarray, "runs sequences"]
    unbeaten: Bool[np.ndarray, "runs sequences"]


def compare(
    problem: Problem, size: int, runs: int, *, both_ways: Bool[np.ndarray, "..."] | bool
) -> Comparisons:
    """The components of a problem with one axis of runs.

    The pairs hold the rewards of one component to each other. Some losses fall for ever as a winner's reward
    grows. These need wins both ways, hence strong components (Ford's condition for Bradley–Terry). For a
    loss that rises on both sides, any comparison will do.
    """
    component, together = np.empty((2, runs, size), int)
    unbeaten = np.empty((runs, size), bool)
    for run, strong in enumerate(np.broadcast_to(both_ways, runs)):
        one = jax.tree.map(lambda leaf, run=run: leaf[run], problem)
        winners, losers, nodes = one.wins(size)
        won = np.ones(len(winners), bool)
        graph = scipy.sparse.coo_array((won, (winners, losers)), shape=(nodes, nodes))
        connected = scipy.sparse.csgraph.connected_components
        _, weak = connected(graph, directed=True, connection="weak")
        labels = connected(graph, directed=True, connection="strong")[1] if strong else weak
        _, component[run] = np.unique(labels[:size], return_inverse=True)
        _, together[run] = np.unique(weak[:size], return_inverse=True)
        beaten = labels[losers[labels[winners] != labels[losers]]]
        unbeaten[run] = ~np.isin(labels[:size], beaten)
    counts = [np.bincount(one, minlength=size) for one in component]
    largest = np.array([count.argmax() for count in counts])
    return Comparisons(component, component == largest[:, None], together, unbeaten)

"""Which sequences preference pairs compare: an edge from winner to loser for every pair that can occur."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Joint, Pairs
from didsim.preferences.labelled import Labelled
from didsim.preferences.mixture import Mixture
from didsim.preferences.problem import Problem

_Edges = list[tuple[np.ndarray, np.ndarray]]


class Comparisons(NamedTuple):
    """The components of the graph of wins, for each entry of a batch.

    Attributes:
        component: a number for every sequence, the same for those of one component.
        identified: whether a sequence is in the largest component.
    """

    component: Int[np.ndarray, "runs sequences"]
    identified: Bool[np.ndarray, "runs sequences"]


def compare(
    problem: Problem, size: int, runs: int, *, both_ways: Bool[np.ndarray, "..."] | bool
) -> Comparisons:
    """The components of a problem with one axis of runs.

    Differences of rewards within a component are held together by the pairs. A loss that falls for ever as
    a winner's reward grows needs wins both ways, hence strong components (Ford's condition for
    Bradley–Terry); for one that rises on both sides any comparison will do.

    The pairs of two independent draws are a complete bipartite graph. It has the same components as one
    with a node between the two, which has O(N) edges.
    """
    component = np.empty((runs, size), int)
    for run, strong in enumerate(np.broadcast_to(both_ways, runs)):
        edges, nodes = _edges(problem, run, size)
        rows, columns = (np.concatenate(ends) for ends in zip(*edges, strict=True))
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(nodes, nodes))
        connection = "strong" if strong else "weak"
        _, labels = connected_components(graph, directed=True, connection=connection)
        _, component[run] = np.unique(labels[:size], return_inverse=True)
    counts = [np.bincount(one, minlength=size) for one in component]
    largest = np.array([count.argmax() for count in counts])
    return Comparisons(component, component == largest[:, None])


def _edges(problem: Problem, run: int, size: int) -> tuple[_Edges, int]:
    """Edges between `size` sequences and the nodes between them, and the number of all nodes."""
    match problem:
        case Contrastive():
            return [*_through(size, problem.chosen[run], problem.rejected[run])], size + 1
        case Labelled():
            first, second = problem.first[run], problem.second[run]
            return [*_through(size, first, second), *_through(size + 1, second, first)], size + 2
        case Pairs():
            kept = np.ones(problem.winners.shape[-1], bool)
            if problem.weights is not None:
                kept = np.asarray(problem.weights[run]) > 0
            return [(np.asarray(problem.winners[run])[kept], np.asarray(problem.losers[run])[kept])], size
        case Joint():
            winners, losers = np.nonzero(np.isfinite(np.asarray(problem.log_probs[run])))
            return [(winners, losers)], size
        case Mixture():
            edges: _Edges = []
            nodes = size
            for one, weight in zip(problem.problems, np.asarray(problem.log_weights[run]), strict=True):
                if np.isfinite(weight):
                    part, used = _edges(one, run, size)
                    edges += [tuple(np.where(e < size, e, e - size + nodes) for e in ends) for ends in part]  # type: ignore[misc]
                    nodes += used - size
            return edges, nodes
    raise ValueError(f"`problem` has no graph of wins that is known: {type(problem).__name__}")


def _through(node: int, winners: object, losers: object) -> _Edges:
    won, lost = (np.flatnonzero(np.isfinite(np.asarray(one))) for one in (winners, losers))
    return [(won, np.full_like(won, node)), (np.full_like(lost, node), lost)]

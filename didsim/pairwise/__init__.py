"""Sums over all pairs of sequences, `Σ_ij A_i B_j k(x_i − x_j − offset)`, in near-linear time.

The form of `k` decides how its sum is taken:

    Analytic          interpolation at Chebyshev nodes    O(N m + m²), m from the range of x and the tolerance
    Polynomial        moments                             O(N degree)
    PiecewiseLinear   a sort and running sums             O(N log N)

Every result is checked against a bound on its error. If the bound exceeds the tolerance, the sum is taken
exactly, pair by pair, in O(N²) time and O(N) memory. `tiled_pair_sum` takes such exact sums of any function.

    forms           what a summand can be
    sums            the functions that users call
    primitive       the JAX primitive behind them: the choice of a method, derivatives, batches
    exact           pair by pair, a tile of rows at a time
    interpolation   of analytic forms
    moments         of polynomials
    sorting         of piecewise linear forms
"""

from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear, Polynomial
from didsim.pairwise.sums import pair_sum, potentials, tiled_pair_sum

__all__ = ["Analytic", "Form", "PiecewiseLinear", "Polynomial", "pair_sum", "potentials", "tiled_pair_sum"]

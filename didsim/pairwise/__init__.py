"""Sums over all pairs of sequences, `Σ_ij A_i B_j k(x_i − x_j − offset)`, in near-linear time.

`k` is called the kernel. Its form decides the method:

    Analytic          interpolation at `m` Chebyshev nodes    O(N m + m²)
    Polynomial        moments                                 O(N degree)
    PiecewiseLinear   a sort and running sums                 O(N log N)

A wide range of `x` and a small tolerance need a large `m`. The first two methods bound their own error. If
the bound exceeds the tolerance, all pairs are summed one by one, in O(N²) time and O(N) memory.
`tiled_pair_sum` sums any function in this way.

    forms           the forms of kernel
    sums            the functions that users call
    primitive       the JAX primitive behind them: it chooses the method and knows derivatives and batches
    exact           sums taken pair by pair, a tile of rows at a time
    interpolation   sums of analytic kernels
    moments         sums of polynomials
    sorting         sums of piecewise linear kernels
    products        sums of a kernel of one difference, times a smooth function of another
    dominance       counts of pairs by the differences of two numbers at once: O(N log N)
"""

from didsim.pairwise.forms import Analytic, Form, PiecewiseLinear, Polynomial
from didsim.pairwise.sums import pair_sum, potentials, tiled_pair_sum

__all__ = ["Analytic", "Form", "PiecewiseLinear", "Polynomial", "pair_sum", "potentials", "tiled_pair_sum"]

"""Sums over all pairs of a kernel of one difference, times a smooth function of another difference.

The smooth function `g` is interpolated in its second variable at `m` Chebyshev nodes `t_q` of the range of
`y`. Let `ℓ_q` be the Lagrange polynomial that is one at `t_q` and zero at the other nodes. Then

    Σ_ij A_i B_j g(y_i − y_j) k(x_i − x_j) ≈ Σ_q Σ_ij [A_i g(y_i − t_q)] [B_j ℓ_q(y_j)] k(x_i − x_j),

which is `m` sums over pairs of `k` alone. Each takes near-linear time if `k` is a form of `didsim.pairwise`.
For a `g` that is analytic in the strip `|Im d| < s`, the error falls like `ρ^−m`, as in
`didsim.pairwise.interpolation`. (Derived here.)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from didsim.pairwise.forms import Analytic, Form
from didsim.pairwise.interpolation import half_range
from didsim.pairwise.sums import unchecked_pair_sum

_NODES = {"float32": (16, 64, 256), "float64": (32, 128, 512)}
_PAYS = 16  # a sum over all pairs at once is as fast for fewer points than this for each node
_LOST = 1e3  # what the smooth function and the polynomials may multiply `ρ^−m` by


def nodes_for(smooth: Analytic, y: Float[Array, "*batch n"]) -> int | None:
    """How many nodes give `product_sum` the precision of the dtype of `y`; None if that would not be faster.

    It is one of three numbers, so that new values seldom need a new compilation. The values of `y` must be
    known.
    """
    known = np.asarray(y)  # in NumPy, as it may be made while something else is traced
    radius = max(float(np.ptp(known, axis=-1).max(initial=0)) / 2, 1e-30)
    most = known.shape[-1] / _PAYS
    return next(
        (m for m in _NODES[known.dtype.name] if m <= most and radius <= _reach(smooth, m, known.dtype)), None
    )


def _reach(smooth: Analytic, nodes: int, dtype: Any) -> float:
    """The half range of `y` up to which some nodes are enough: `ρ^−m` is then below the dtype's precision."""
    return smooth.strip / math.sinh(math.log(_LOST / float(jnp.finfo(dtype).eps)) / nodes)


def product_sum(
    smooth: Analytic,
    kernel: Form,
    nodes: int,
    first: Float[Array, "*#batch n"],
    second: Float[Array, "*#batch n"],
    y: Float[Array, "*#batch n"],
    x: Float[Array, "*#batch n"],
    offset: Float[Array, "*#batch"] | float = 0.0,
) -> Float[Array, "*batch"]:
    """`Σ_ij first_i second_j smooth(y_i − y_j) kernel(x_i − x_j − offset)`.

    Each node costs a `pair_sum` of `kernel`. Memory is O(N). The error is the rounding of
    `Σ_ij |first_i second_j kernel|`. The sum is NaN where `y` has so wide a range that there are too few
    nodes, as `nodes_for(smooth, y)` would tell.
    """
    radius = half_range(y)[..., None]
    enough = radius[..., 0] <= (1 + 1e-4) * _reach(smooth, nodes, y.dtype)
    scale = jnp.where(radius > 0, radius, 1)
    middle = jnp.min(y, axis=-1, keepdims=True) + radius
    u = (y - middle) / scale

    def pole(q: Array) -> tuple[Array, Array, Array]:
        """The node, and `w_q / (u − z_q)` with its barycentric weight; and where `u` is the node."""
        angle = (2 * q + 1) * (math.pi / (2 * nodes))
        node, weight = jnp.cos(angle).astype(u.dtype), jnp.sin(angle).astype(u.dtype)
        apart = u - node
        hit = apart == 0
        return node, jnp.where(q % 2 == 0, weight, -weight) / jnp.where(hit, 1, apart), hit

    def add_pole(total: tuple[Array, Array], q: Array) -> tuple[tuple[Array, Array], None]:
        _, value, hit = pole(q)
        return (total[0] + jnp.where(hit, 0, value), total[1] | hit), None

    def add_sum(total: Array, q: Array) -> tuple[Array, None]:
        node, value, hit = pole(q)
        polynomial = jnp.where(is_node, hit, value / jnp.where(is_node, 1, poles))
        lifted = first * smooth(y - (middle + scale * node))
        return total + unchecked_pair_sum(kernel, lifted, second * polynomial, x, offset), None

    # Backward passes compute each node's part anew, so that memory stays at O(N).
    indices = jnp.arange(nodes)
    nowhere = jnp.zeros_like(u), jnp.zeros(u.shape, bool)
    (poles, is_node), _ = jax.lax.scan(jax.checkpoint(add_pole), nowhere, indices)
    shape = jax.eval_shape(lambda: unchecked_pair_sum(kernel, first * u, second * u, x, offset))
    total, _ = jax.lax.scan(jax.checkpoint(add_sum), jnp.zeros(shape.shape, shape.dtype), indices)
    return jnp.where(enough, total, jnp.nan)

"""The Hessian in logits of a loss of single sequences, from which a step costs O(N).

Let the loss be `Σ_i f_i(ℓ_i)`, with `ℓ = z − lse(z)`. Let `p = exp(ℓ)` and `S = Σ_i f_i'(ℓ_i)`. The Hessian
in the logits `z` is

    H = (I − p 1ᵀ) diag(f'') (I − 1 pᵀ) − S (diag(p) − p pᵀ)

A constant that is added to all logits changes nothing. So every step is one with `pᵀ x = 0`, but for a
constant. For such steps

    xᵀ H x = Σ_i D_i x_i²,    D = f'' − S p

Newton's step solves `D x + μ p = −g` and `pᵀ x = 0`, a system that has the shape of an arrow. Its eigenvalues
are known. Let `x = y / √|D|`, so that `yᵀ q = 0` with `q = p / √|D|`. The curvatures of `y` are 1 where `D`
is positive, −1 where it is negative, and 0 where it is rounding. In each of these three blocks, all
directions orthogonal to the block's part of `q` are eigenvectors. Each block has one direction left, that of
its part of `q`. Among these three directions the form is a 3 × 3 matrix, which has the other eigenvectors.
(Derived here.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from didsim.fixed_points.hessians import FEW, Decomposed, flat_share, is_rounding
from didsim.objectives.curvature import upwards

# The blocks of sequences: `D` is positive, negative, or rounding.
_POSITIVE, _NEGATIVE, _LEVEL = range(3)
# A Hessian is far from singular if its smallest scaled eigenvalue is larger.
_SAFE = 1e-7


class Arrow(NamedTuple):
    """A Hessian in logits of a loss of single sequences. Everything costs O(N).

    Attributes:
        own: the second derivatives `f''` in the log-probabilities.
        total: the sum `S` of the first ones.
        p: the policy, with zeros for sequences that it leaves out.
        kept: the sequences that it does not leave out. For the logits of others the Hessian is the identity.
    """

    own: Float[Array, " n"]
    total: Float[Array, ""]
    p: Float[Array, " n"]
    kept: Bool[Array, " n"]

    def product(self, step: Array) -> Array:
        moved = step - jnp.vdot(self.p, step)
        pull = jnp.where(self.kept, self.own * moved, 0)
        pull = pull - self.p * (jnp.sum(pull) + self.total * moved)
        return jnp.where(self.kept, pull, step)

    def diagonal(self) -> Array:
        p, own = self.p, jnp.where(self.kept, self.own, 0)
        bent = own * (1 - 2 * p) + p**2 * jnp.sum(own) - self.total * p * (1 - p)
        return jnp.where(self.kept, bent, 1)

    def decomposed(
        self,
        g: Array,
        idle: Array,
        size: Array | None,
        positive: Callable[[], "Arrow"] | None,
        is_far: Bool[Array, ""],
        was_safe: Bool[Array, ""],
    ) -> Decomposed:
        """As in `Hessian`. `positive` is not used for a few numbers."""
        own = self._blocks()
        is_safe = (own.flat == 0) & (own.lowest > _SAFE)
        blocks = own
        if positive is not None and len(self.p) > FEW:
            takes_own = is_safe | ~is_far
            blocks = jax.tree.map(lambda a, b: jnp.where(takes_own, a, b), own, positive()._blocks())

        def step_for(g: Array) -> Array:
            return -blocks.solved(g)

        return Decomposed(step_for(g), step_for, own.flat, own.lowest, is_safe)

    def by_magnitude(self, share: Float[Array, ""]) -> "Arrow":
        """A positive Hessian: that of a loss with the same curvatures `upwards`."""
        return self._replace(own=upwards(self.own, share), total=-upwards(-self.total, share))

    def level_directions(self, last: "Arrow", size: Array | None) -> tuple[Array, Array]:
        """As in `Hessian`, among the sequences for which both `D` are rounding."""
        level = (self._blocks().of == _LEVEL) & (last._blocks().of == _LEVEL)
        ends = jnp.where(level, jnp.stack([self.p, last.p]), 0)
        along, sizes, _ = jnp.linalg.svd(ends.T, full_matrices=False)
        held = sizes > flat_share(sizes) * jnp.max(sizes)
        mixture = jnp.where(level, jnp.cos(jnp.arange(len(level), dtype=self.p.dtype)), 0)
        mixture = mixture - along @ jnp.where(held, along.T @ mixture, 0)
        count = jnp.maximum(jnp.sum(level) - jnp.sum(held), 0)
        longest = jnp.max(jnp.abs(mixture))
        is_there = (count > 0) & (longest > 0)
        return count + 1, jnp.where(is_there, mixture / jnp.where(is_there, longest, 1), 0)

    def _blocks(self) -> "_Blocks":
        curvature = jnp.where(self.kept, self.own - self.total * self.p, 1)
        size = jnp.where(self.kept, jnp.abs(self.own) + jnp.abs(self.total) * self.p, 1)
        is_level = is_rounding(curvature, size)
        of = jnp.where(is_level, _LEVEL, jnp.where(curvature < 0, _NEGATIVE, _POSITIVE))
        magnitude = jnp.where(is_level, size, jnp.abs(curvature))
        scale = jax.lax.rsqrt(jnp.where(magnitude > 0, magnitude, 1))
        q = scale * self.p
        q = q / jnp.max(q)
        is_in = of == jnp.arange(3)[:, None]
        squares = jnp.sum(jnp.where(is_in, q**2, 0), axis=1)
        has_part = squares > 0
        lengths = jnp.sqrt(jnp.where(has_part, squares, 1))
        # In the space of the blocks' parts of `q`: the direction of `q`, and the projection from it.
        along = jnp.where(has_part, lengths, 0) / jnp.sqrt(jnp.sum(squares))
        project = jnp.eye(3, dtype=q.dtype) - jnp.outer(along, along)
        known = jnp.array([1.0, -1.0, 0.0], q.dtype)
        # Where there is no direction, it counts as positive.
        parts = project * jnp.where(has_part, known, 1) @ project + jnp.outer(along, along)
        values, vectors = jnp.linalg.eigh(parts)
        values = jnp.where(jnp.abs(values) > flat_share(q), values, 0)
        more = jnp.sum(is_in, axis=1) - has_part
        lowest = jnp.minimum(jnp.min(values), jnp.min(jnp.where(more > 0, known, 1)))
        unit = q / _spread(lengths, of)
        return _Blocks(of, scale, unit, project, values, vectors, more[_LEVEL] + jnp.sum(values == 0), lowest)


class _Blocks(NamedTuple):
    """The eigenvectors of a scaled Hessian.

    Attributes:
        of: the block of each sequence.
        scale: `1 / √|D|`.
        unit: `q`, with the part of every block scaled to length 1.
        project: the projection, in the space of the blocks' parts of `q`, to what is orthogonal to `q`.
        values: the eigenvalues in that space.
        vectors: its eigenvectors.
        flat: the number of directions without curvature.
        lowest: the smallest eigenvalue.
    """

    of: Int[Array, " n"]
    scale: Float[Array, " n"]
    unit: Float[Array, " n"]
    project: Float[Array, "3 3"]
    values: Float[Array, "3"]
    vectors: Float[Array, "3 3"]
    flat: Int[Array, ""]
    lowest: Float[Array, ""]

    def solved(self, g: Array) -> Array:
        """`|H|⁻¹ g`, where eigenvalues of zero leave nothing of `g`. It is orthogonal to `p`."""
        y = self.scale * g
        is_in = self.of == jnp.arange(3)[:, None]
        parts = jnp.sum(jnp.where(is_in, self.unit * y, 0), axis=1)
        values = jnp.abs(self.values)
        inverse = jnp.where(values == 0, 0, 1 / jnp.where(values == 0, 1, values))
        mixed = self.vectors @ (inverse * (self.vectors.T @ (self.project @ parts)))
        rest = jnp.where(self.of == _LEVEL, 0, y - self.unit * _spread(parts, self.of))
        return self.scale * (rest + self.unit * _spread(mixed, self.of))


def _spread(values: Float[Array, "3"], of: Int[Array, " n"]) -> Float[Array, " n"]:
    """The value of its block for each sequence."""
    return jnp.where(of == 0, values[0], jnp.where(of == 1, values[1], values[2]))

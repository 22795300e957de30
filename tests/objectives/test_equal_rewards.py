"""Two sequences with the same reward differ by exactly nothing, compiled or not, however large it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import didsim
from didsim._differences import difference

Loss = Callable[..., tuple[jax.Array, jax.Array]]
BETA, ALPHA = 0.1, 0.5
# The slope of each reward in log π, at log π = p and log reference = r. Margins are left out.
SLOPES: dict[str, tuple[didsim.Objective, Callable[[float, float], mpmath.mpf]]] = {
    "forward KL": (didsim.fdpo_forward_kl(BETA), lambda p, r: BETA * mpmath.exp(mpmath.mpf(r) - p)),
    "alpha": (didsim.fdpo_alpha(BETA, ALPHA), lambda p, r: BETA * mpmath.exp(ALPHA * (mpmath.mpf(r) - p))),
    "JS": (didsim.fdpo_js(BETA), lambda p, r: BETA / (1 + mpmath.exp(mpmath.mpf(p) - r))),
    "chi squared": (didsim.chi_po(BETA), lambda p, r: BETA * (1 + mpmath.exp(mpmath.mpf(p) - r))),
    "power": (didsim.alphapo(BETA, 0, ALPHA), lambda p, r: BETA * mpmath.exp(-ALPHA * mpmath.mpf(p))),
    "log-ratio": (didsim.dpo(BETA), lambda p, r: mpmath.mpf(BETA)),
}
PLACES = {
    "float64": [(-30.0, -1.0), (-700.0, -1.0), (-1.0, -700.0)],
    "float32": [(-30.0, -1.0), (-80.0, -1.0), (-1.0, -80.0)],
}


@pytest.mark.parametrize("jit", [jax.jit, lambda function: function], ids=["compiled", "step by step"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SLOPES)
def test_a_pair_with_one_reward_has_the_loss_and_the_slope_of_a_tie(
    name: str, dtype: str, jit: Callable[[Loss], Loss]
) -> None:
    objective, slope = SLOPES[name]

    @jit
    def loss_and_slope(
        chosen: jax.Array, rejected: jax.Array, reference: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda p: objective.pair_loss(p, rejected, reference, reference, 1, 1))(
            chosen
        )

    for p, r in PLACES[dtype]:
        loss, found = loss_and_slope(*(jnp.asarray(one, dtype) for one in (p, p, r)))
        eps = float(jnp.finfo(dtype).eps)
        assert float(loss) == pytest.approx(np.log(2), rel=4 * eps)
        # Exponents are rounded to the dtype before they are exponentiated.
        assert float(found) == pytest.approx(float(-slope(p, r) / 2), rel=8 * eps * max(1, abs(p - r)))


@pytest.mark.parametrize("size", [2, 3, 100])
@pytest.mark.parametrize("name", SLOPES)
def test_the_loss_of_a_sequence_against_itself_is_that_of_a_tie_in_compiled_populations(
    name: str, size: int
) -> None:
    objective, _ = SLOPES[name]
    logits = np.zeros(size)
    logits[0] = -40
    rare, even = jax.nn.log_softmax(logits), jax.nn.log_softmax(jnp.zeros(size))
    itself = np.where(np.arange(size) == 0, 0.0, -np.inf)
    problems = (
        didsim.Pairs(np.array([0]), np.array([0])),
        didsim.Contrastive(itself, itself),
        didsim.Contrastive(itself, itself).joint(size),
    )
    for problem in problems:
        for policy, reference in ((rare, even), (even, rare)):
            loss = jax.jit(lambda p, r, of=problem: objective.population_loss(p, r, of, None))(
                policy, reference
            )
            assert float(loss) == pytest.approx(np.log(2), rel=1e-14)


def test_a_difference_of_infinities_stays_undefined() -> None:
    infinite = jnp.array([jnp.inf, -jnp.inf, jnp.inf, 1.0])
    np.testing.assert_array_equal(
        jax.jit(difference)(infinite, jnp.array([jnp.inf, -jnp.inf, 1.0, 1.0])), [np.nan, np.nan, np.inf, 0]
    )


def test_equal_numbers_have_the_derivatives_of_a_difference() -> None:
    two = jnp.asarray(2.0)
    assert jax.grad(difference, (0, 1))(two, two) == (1.0, -1.0)
    assert float(jax.hessian(lambda a: jnp.square(difference(a, two)))(two)) == 2.0

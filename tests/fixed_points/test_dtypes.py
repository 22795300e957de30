"""A problem in float32 is solved as the same numbers are in float64, and answered in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_softmax

import didsim
from didsim.objectives.objective import Objective
from didsim.preferences.problem import Problem
from tests.fixed_points.limits import CHOSEN, LENGTHS, OBJECTIVES, REFERENCE, REJECTED

FAMILY = didsim.LogLinear(np.eye(6, 3), np.zeros(3))
PAIRS = didsim.Pairs(np.array([0, 1, 2, 3, 4, 5, 0]), np.array([1, 2, 3, 4, 5, 0, 3]), np.full(7, 1 / 7))


def in_dtype(tree: Any, dtype: type) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if leaf.dtype.kind == "f" else leaf, tree)


def both(objective: Objective, problem: Problem, **given: Any) -> list[didsim.Solution]:
    """The solutions for numbers of float32, in float32 and in float64."""
    single = in_dtype((objective, REFERENCE[0], problem, given), np.float32)
    found = []
    for dtype in (np.float32, np.float64):
        one, reference, pairs, more = in_dtype(single, dtype)
        # The rounding to float32 has left the sum a little off 1.
        found.append(didsim.solve(one, log_softmax(reference), pairs, **more, starts=2))
    return found


def assert_same(narrow: didsim.Solution, wide: didsim.Solution) -> None:
    assert narrow.verdict == wide.verdict
    assert narrow.objection() is None or narrow.objection() == wide.objection()
    for name in ("method", "starts", "note"):
        assert getattr(narrow.certificate, name) == getattr(wide.certificate, name)
    for name in ("unique", "has_others", "flat", "converged", "runs_off", "finite", "agreed"):
        found, expected = (getattr(one.certificate, name) for one in (narrow, wide))
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert narrow.log_probs.dtype == jnp.float32
    assert narrow.certificate.gradient_norm.dtype == np.float32
    np.testing.assert_allclose(narrow.log_probs, wide.log_probs, rtol=3e-7)


# One for each way of solving.
@pytest.mark.parametrize("name", ["simpo", "exo", "sft", "kto", "bco", "orpo", "dpop", "sppo", "apo_down"])
def test_float32_has_the_verdict_and_the_digits_of_float64(name: str) -> None:
    problem = didsim.Contrastive(CHOSEN[0], REJECTED[0])
    assert_same(*both(OBJECTIVES[name], problem, lengths=LENGTHS))


KINDS: dict[str, Problem] = {
    "labelled by a table": didsim.LabelledByTable(
        didsim.PreferenceTable.rao_kupper(REFERENCE[0], 2.0), CHOSEN[0], REJECTED[0]
    ),
    "mixture": didsim.Mixture(
        (didsim.Contrastive(CHOSEN[0], REJECTED[0]), didsim.Labelled(REFERENCE[0], CHOSEN[0], REJECTED[0])),
        np.log([0.3, 0.7]),
    ),
    "online": didsim.Online(REFERENCE[0], didsim.OnPolicy()),
    "joint": didsim.Contrastive(CHOSEN[0], REJECTED[0]).joint(6),
    "pairs": PAIRS,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [didsim.slic, didsim.dpo_rao_kupper])
def test_every_kind_of_problem_in_float32(kind: str, make: Callable[[float], Objective]) -> None:
    """The rounding to float32 leaves the sums of distributions a little off 1, which is no fault."""
    given = make(0.5), jnp.asarray(REFERENCE[0]), KINDS[kind]
    narrow, wide = (didsim.solve(*in_dtype(given, dtype), starts=2) for dtype in (np.float32, np.float64))
    assert narrow.verdict == wide.verdict
    assert narrow.certificate.method == wide.certificate.method
    np.testing.assert_array_equal(narrow.certificate.unique, wide.certificate.unique)
    np.testing.assert_allclose(narrow.log_probs, wide.log_probs, rtol=1e-5, atol=1e-5)


def test_finite_pairs_and_families_in_float32() -> None:
    assert_same(*both(didsim.dpo(0.5), PAIRS))
    narrow, wide = both(didsim.dpo(0.5), PAIRS, policy=FAMILY)
    assert_same(narrow, wide)
    assert isinstance(narrow.policy, didsim.LogLinear)
    assert narrow.policy.weights.dtype == jnp.float32


def test_nothing_changes_outside() -> None:
    objective, reference = in_dtype((didsim.cdpo(0.5), REFERENCE[0]), np.float32)
    with jax.enable_x64(False):
        assert didsim.solve(objective, reference, in_dtype(PAIRS, np.float32)).log_probs.dtype == jnp.float32
        assert jnp.zeros(2).dtype == jnp.float32

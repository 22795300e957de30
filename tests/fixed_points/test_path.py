"""The curve of minimisers along one parameter, against solves of each value by itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim.fixed_points import Method, Verdict
from tests.compilations import counted_compilations
from tests.fixed_points.limits import FEATURES, PROBLEM, REFERENCE, SEEDS, SIZE

ONE = didsim.Contrastive(PROBLEM.chosen[0], PROBLEM.rejected[0])
BETAS = np.array([0.2, 0.3, 0.45, 0.7, 1.0])


def smoothed(beta: float) -> didsim.Objective:
    return didsim.cdpo(beta, 0.1)


def test_a_path_has_the_minimiser_and_the_certificate_of_every_value() -> None:
    path = didsim.solve_path(smoothed, REFERENCE, PROBLEM, over={"beta": BETAS})
    assert path.parameter == "beta"
    np.testing.assert_array_equal(path.values, BETAS)
    assert path.log_probs.shape == (len(BETAS), SEEDS, SIZE)
    assert path.verdicts == (Verdict.MINIMISER,) * len(BETAS)
    assert path.certificate.method == Method.NEWTON_ON_REWARDS
    assert path.certificate.agreed is None
    for k, beta in enumerate(BETAS):
        alone = didsim.solve(smoothed(beta), REFERENCE, PROBLEM)
        np.testing.assert_allclose(path.log_probs[k], alone.log_probs, atol=1e-12)
        np.testing.assert_array_equal(path.certificate.unique[k], alone.certificate.unique)
        if k:
            assert np.all(path.certificate.steps[k] <= alone.certificate.steps)
    assert path.certificate.steps[1:].sum() < path.certificate.steps[0].sum() * (len(BETAS) - 1)


def test_closed_forms_along_a_path() -> None:
    path = didsim.solve_path(didsim.dpo, REFERENCE, PROBLEM, over={"beta": list(BETAS)})
    h = np.asarray(PROBLEM.chosen - PROBLEM.rejected)
    for k, beta in enumerate(BETAS):
        np.testing.assert_allclose(path.log_probs[k], log_softmax(REFERENCE + h / beta, axis=-1), atol=1e-12)
    assert path.certificate.method == Method.CLOSED_FORM


def test_values_are_solved_in_their_order_each_from_the_one_before() -> None:
    """Bit for bit what a loop over `solve` gives, in as many steps."""
    noises = [0.3, 0.1, 0.2]
    make = functools.partial(didsim.cdpo, 0.5)
    path = didsim.solve_path(make, REFERENCE[0], ONE, over={"label_smoothing": noises})
    np.testing.assert_array_equal(path.values, noises)
    before = None
    for k, noise in enumerate(noises):
        before = didsim.solve(make(label_smoothing=noise), REFERENCE[0], ONE, start=before)
        np.testing.assert_array_equal(path.log_probs[k], before.log_probs)
        assert path.certificate.steps[k] == before.certificate.steps


def test_new_values_compile_nothing() -> None:
    def path(betas: Any) -> None:
        didsim.solve_path(smoothed, REFERENCE[0], ONE, over={"beta": betas})

    path(np.linspace(0.3, 0.6, 7))
    with counted_compilations() as compiled:
        path(np.linspace(0.2, 0.9, 7))
    assert compiled == []


def test_the_problem_can_be_the_function() -> None:
    """A mixture of two sources of pairs. At its ends it is one of them alone."""
    other = didsim.Contrastive(PROBLEM.rejected[0], PROBLEM.chosen[0])

    def mixed(share: float) -> didsim.Problem:
        with np.errstate(divide="ignore"):
            return didsim.Mixture((ONE, other), np.log([1 - share, share]))

    objective = didsim.cdpo(0.5, 0.1)
    path = didsim.solve_path(objective, REFERENCE[0], mixed, over={"share": [0.0, 0.25, 0.5, 1.0]})
    for k, problem in ((0, ONE), (3, other)):
        alone = didsim.solve(objective, REFERENCE[0], problem)
        np.testing.assert_allclose(path.log_probs[k], alone.log_probs, atol=1e-10)
    # Half of either: every pair is won as often as lost, and the reference has the least loss.
    np.testing.assert_allclose(path.log_probs[2], REFERENCE[0], atol=1e-12)


def test_a_value_without_a_minimiser_is_nan_and_the_path_goes_on() -> None:
    """Robust DPO has none if preferences are surer than its noise allows: here above a noise of 0.2."""
    uniform = np.full(2, -np.log(2))
    problem = didsim.Pairs([0, 1], [1, 0], weights=[0.8, 0.2])
    noises = [0.1, 0.15, 0.3, 0.05]
    make = functools.partial(didsim.robust, 1.0)
    path = didsim.solve_path(make, uniform, problem, over={"label_smoothing": noises})
    assert path.verdicts == (*[Verdict.MINIMISER] * 2, Verdict.RUNS_OFF, Verdict.MINIMISER)
    assert np.isnan(path.log_probs).all(axis=-1).tolist() == [False, False, True, False]
    assert path.certificate.converged.tolist() == [True, True, False, True]
    assert not np.isnan(path.solutions[2].log_probs).any()
    for k in (0, 1, 3):
        # The loss is that of labels with the noise taken out: σ(h_0 − h_1) = (0.8 − ε) / (1 − 2ε).
        won = (0.8 - noises[k]) / (1 - 2 * noises[k])
        difference = path.log_probs[k, 0] - path.log_probs[k, 1]
        assert float(difference) == pytest.approx(np.log(won / (1 - won)), rel=1e-10)


def test_one_problem_of_a_batch_without_a_minimiser_does_not_stop_the_others() -> None:
    uniform = np.full(2, -np.log(2))
    problem = didsim.Pairs([[0, 1], [0, 1]], [[1, 0], [1, 0]], weights=[[0.8, 0.2], [0.6, 0.4]])
    make = functools.partial(didsim.robust, 1.0)
    path = didsim.solve_path(make, uniform, problem, over={"label_smoothing": [0.1, 0.3, 0.1]})
    assert np.isnan(path.log_probs).any(axis=-1).tolist() == [[False] * 2, [True, False], [False] * 2]
    np.testing.assert_allclose(path.log_probs[2], path.log_probs[0], atol=1e-12)
    assert path.verdicts[1] == Verdict.RUNS_OFF


def test_methods_and_numbers_of_starts_may_change_along_a_path() -> None:
    def make(beta: float) -> didsim.Objective:
        return {0.2: didsim.dpo, 0.3: smoothed, 0.4: didsim.exo}[beta](beta)

    path = didsim.solve_path(make, REFERENCE[0], ONE, over={"beta": [0.2, 0.3, 0.4]}, starts=2)
    assert path.certificate.method == Method.SEVERAL
    assert [one.certificate.method for one in path.solutions] == ["closed form", *["Newton on rewards"] * 2]
    assert path.certificate.starts == 2
    assert path.solutions[1].certificate.agreed is None
    assert path.certificate.agreed is not None
    assert path.certificate.agreed.tolist() == [True, True, True]


def test_a_family_of_policies_starts_from_the_policy_as_given() -> None:
    policy = didsim.LogLinear(FEATURES, np.array([0.3, -2.0]))
    path = didsim.solve_path(smoothed, REFERENCE[0], ONE, over={"beta": BETAS[:2]}, policy=policy)
    for k in range(2):
        alone = didsim.solve(smoothed(BETAS[k]), REFERENCE[0], ONE, policy=policy)
        np.testing.assert_array_equal(path.log_probs[k], alone.log_probs)
        assert isinstance(path.solutions[k].policy, didsim.LogLinear)


def test_a_labelled_dataset() -> None:
    path = didsim.solve_path(didsim.dpo, REFERENCE, PROBLEM, over={"beta": BETAS})
    dataset = path.to_dataset(["seed"])
    assert dataset.log_probs.dims == ("beta", "seed", "sequence")
    assert dataset.log_probs.attrs["units"] == "nats"
    np.testing.assert_array_equal(dataset.log_probs, path.log_probs)
    np.testing.assert_array_equal(dataset.beta, BETAS)
    assert dataset.verdict.values.tolist() == ["MINIMISER"] * len(BETAS)
    assert dataset.unique.dims == ("beta", "seed")
    for wrong in ([], ["seed", "run"], ["beta"], ["sequence"]):
        with pytest.raises(ValueError, match="`batch_dims` must name every batch axis"):
            path.to_dataset(wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_that_of_the_reference(dtype: str) -> None:
    problem = jax.tree.map(lambda leaf: leaf.astype(dtype), ONE)
    path = didsim.solve_path(smoothed, REFERENCE[0].astype(dtype), problem, over={"beta": [0.5, 1.0]})
    assert path.log_probs.dtype == dtype
    np.testing.assert_allclose(jnp.exp(path.log_probs).sum(-1), 1, rtol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize(
    "over", [{}, {"beta": [0.1], "weight": [1.0]}, {1: [0.1]}, {"": [0.1]}, {"sequence": [0.1]}, ["beta"]]
)
def test_over_must_be_one_parameter(over: Any) -> None:
    with pytest.raises(ValueError, match="`over` must"):
        didsim.solve_path(didsim.dpo, REFERENCE, PROBLEM, over=over)


@pytest.mark.parametrize("values", [0.1, [[0.1]], [], [np.nan], [np.inf], ["a"], None, [True]])
def test_values_must_be_finite_numbers_along_one_axis(values: Any) -> None:
    with pytest.raises(ValueError, match=r"`over\['beta'\]` must"):
        didsim.solve_path(didsim.dpo, REFERENCE, PROBLEM, over={"beta": values})


def test_functions_that_do_not_fit_are_refused() -> None:
    over: Any = {"beta": [0.1]}
    with pytest.raises(ValueError, match="`objective` or `problem` must be a function of 'beta'"):
        didsim.solve_path(didsim.dpo(), REFERENCE, PROBLEM, over=over)
    with pytest.raises(ValueError, match="`objective` must be a function that takes 'beta'"):
        didsim.solve_path(didsim.orpo, REFERENCE, PROBLEM, over=over)
    with pytest.raises(
        ValueError, match=r"`objective` must be a function that returns an Objective; got 0\.1"
    ):
        didsim.solve_path(lambda beta: beta, REFERENCE, PROBLEM, over=over)
    with pytest.raises(ValueError, match=r"`problem` must be a function that returns a Problem; got 0\.1"):
        didsim.solve_path(didsim.dpo, REFERENCE, lambda beta: beta, over=over)
    with pytest.raises(ValueError, match="`beta` must be positive"):
        didsim.solve_path(didsim.dpo, REFERENCE, PROBLEM, over={"beta": [0.1, -1.0]})

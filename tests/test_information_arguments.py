from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from didsim import bayes_update, did, did_entropy, entropy, expectation, geodesic, js, kl, total_variation
from tests.information_cases import MEASURES, TWO, WITH_ZERO, P, Q

BAD = {
    "normalised over the last axis": np.log([0.5, 0.6, 0.2]),
    "log-probabilities; got NaN at index": np.array([np.nan, 0.0, 0.0]),
    "a floating-point array; got dtype int": np.array([0, 0, 0]),
    "have at least 1 axis": np.array(0.0),
    "not be empty; got shape": np.zeros(0),
}


@pytest.mark.parametrize("expected", BAD)
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (kl, ("p", "q")),
        (js, ("p", "q")),
        (total_variation, ("p", "q")),
        (did, ("policy", "reference")),
        (did_entropy, ("policy", "reference")),
    ],
)
def test_functions_of_two_name_the_argument_that_is_no_distribution(
    function: Callable[..., jax.Array], names: tuple[str, str], expected: str
) -> None:
    bad = BAD[expected]
    with pytest.raises(ValueError, match=f"`{names[0]}` must .*{expected}"):
        function(bad, P)
    with pytest.raises(ValueError, match=f"`{names[1]}` must .*{expected}"):
        function(P, bad)


@pytest.mark.parametrize("expected", BAD)
def test_functions_of_one_name_the_argument_that_is_no_distribution(expected: str) -> None:
    bad = BAD[expected]
    for name, call in {
        "p": lambda: entropy(bad),
        "log_probs": lambda: expectation(bad, P),
        "reference": lambda: bayes_update(bad, P),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` must .*{expected}"):
            call()
    with pytest.raises(ValueError, match=f"`reference` must .*{expected}"):
        geodesic(bad, P, 1.0)


@pytest.mark.parametrize("name", TWO)
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    half = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match=r"must agree in their last axis, sequences; got .*\(3,\).*\(2,\)"):
        MEASURES[name](P, half)
    with pytest.raises(ValueError, match=r"must broadcast together; got .*\(2,\).*\(3,\)"):
        MEASURES[name](np.stack([P] * 2), np.stack([P] * 3))


def test_did_asks_for_full_support() -> None:
    for function in (did, did_entropy):
        with pytest.raises(ValueError, match=r"`policy` must give every sequence a positive probability"):
            function(WITH_ZERO, P)
        with pytest.raises(ValueError, match=r"`reference` must .*; got zero at index \(2,\)"):
            function(P, WITH_ZERO)


def test_evidence_must_be_usable() -> None:
    with pytest.raises(ValueError, match="`log_q` must be below infinity and not NaN"):
        bayes_update(P, np.array([0.0, np.inf, 0.0]))
    with pytest.raises(ValueError, match="`log_q` must be below infinity and not NaN"):
        bayes_update(P, np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match="`log_q` must leave a sequence that `reference` allows"):
        bayes_update(P, np.full(3, -np.inf))
    with pytest.raises(ValueError, match="`log_q` must leave a sequence that `reference` allows"):
        bayes_update(WITH_ZERO, np.array([-np.inf, -np.inf, 0.0]))
    with pytest.raises(ValueError, match="`reference`, `log_q` must agree in their last axis"):
        bayes_update(P, np.zeros(2))


def test_the_geodesic_needs_finite_arguments_that_fit() -> None:
    with pytest.raises(ValueError, match="`s` must be finite; got nan"):
        geodesic(P, Q, np.nan)
    with pytest.raises(ValueError, match="`log_q` must be finite everywhere; got -inf"):
        geodesic(P, WITH_ZERO, 1.0)
    with pytest.raises(
        ValueError, match=r"`reference`, `log_q`, `s` must broadcast together; .*s of shape \(3,\)"
    ):
        geodesic(np.stack([P, Q]), Q, jnp.ones(3))
    with pytest.raises(Exception, match="`s` must be finite"):
        jax.jit(lambda s: geodesic(jnp.asarray(P), jnp.asarray(Q), s))(np.inf)


def test_expectation_refuses_values_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="`values` must be a floating-point array; got dtype int64"):
        expectation(P, np.arange(3))
    with pytest.raises(ValueError, match="`log_probs`, `values` must agree in their last axis"):
        expectation(P, np.zeros(2))


def test_an_expectation_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="`values` must not be NaN; got NaN for at least one sequence"):
        didsim.expectation(np.log([0.5, 0.5]), np.array([1.0, np.nan]))

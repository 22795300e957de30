from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import didsim
from didsim import gradient_flow
from tests.compilations import counted_compilations
from tests.estimation.data import games

REFERENCE = log_softmax(np.random.default_rng(0).normal(size=4))
CHOSEN = log_softmax(np.random.default_rng(1).normal(size=4))
PROBLEM = didsim.Contrastive(CHOSEN, REFERENCE)


def test_two_sequences_follow_a_separable_equation() -> None:
    """With `d` the margin and weights 1 : `ḋ = 2 β σ(−β d)`, so that `β d + e^(β d) = 2 β² t + 1`."""
    beta, times = 0.7, np.array([0.0, 0.1, 1.0, 10.0, 1e4])
    even = np.log([0.5, 0.5])
    path = gradient_flow(didsim.dpo(beta), even, didsim.Pairs([0], [1]), times)
    h = beta * (path[:, 0] - path[:, 1])
    np.testing.assert_allclose(h + np.exp(h), 2 * beta**2 * times + 1, rtol=1e-6)


def test_the_flow_is_that_of_another_solver_on_a_double_loop() -> None:
    data, beta = games(4, 40), 0.5
    winners, losers = np.asarray(data.winners), np.asarray(data.losers)

    def slope(_: float, theta: np.ndarray) -> np.ndarray:
        r = beta * (theta - REFERENCE)
        total = np.zeros(4)
        for i, j in zip(winners, losers, strict=True):
            total[i] += beta * expit(r[j] - r[i])
            total[j] -= beta * expit(r[j] - r[i])
        return total / len(winners)

    times = np.array([1.0, 30.0, 200.0])
    expected = solve_ivp(
        slope, (0, 200), REFERENCE, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-11
    ).y.T
    found = gradient_flow(didsim.dpo(beta), REFERENCE, data, times)
    np.testing.assert_allclose(found, log_softmax(expected, axis=-1), atol=1e-6)


@pytest.mark.parametrize("make", [didsim.dpo, didsim.kto, didsim.orpo, didsim.dpo_pg])
def test_small_steps_of_training_follow_it(make: Callable[[float], didsim.Objective]) -> None:
    objective = make(0.5)
    lengths = np.array([1, 2, 2, 3])
    run = didsim.train(
        didsim.EnergyBased(REFERENCE),
        REFERENCE,
        PROBLEM,
        objective,
        optax.sgd(1e-3),
        steps=4000,
        lengths=lengths,
    )
    found = gradient_flow(objective, REFERENCE, PROBLEM, [0.0, 4.0], lengths)
    np.testing.assert_allclose(found[0], REFERENCE, atol=1e-12)
    assert np.abs(found[1] - REFERENCE).max() > 1e-2
    np.testing.assert_allclose(found[1], run.policy.log_probs(), atol=1e-4)


def test_late_times_end_at_the_minimiser_and_float32_stays_float32() -> None:
    objective = didsim.dpo(1.0)
    for dtype, atol in (("float64", 1e-6), ("float32", 1e-5)):
        reference, chosen = jnp.asarray(REFERENCE, dtype), jnp.asarray(CHOSEN, dtype)
        problem = didsim.Contrastive(chosen, reference)
        path = gradient_flow(objective, reference, problem, [1e7], start=jnp.asarray(CHOSEN[::-1], dtype))
        assert path.dtype == dtype
        np.testing.assert_allclose(path[0], didsim.fixed_point(objective, reference, problem), atol=atol)


def test_the_flow_of_a_quadratic_loss_and_its_ridge_path_are_as_the_docstring_says() -> None:
    """One pair in both orders under IPO: its loss is quadratic in the rewards."""
    beta, even = 1.0, np.log([0.5, 0.5])
    problem = didsim.Pairs([0, 1], [1, 0], [0.75, 0.25])
    objective = didsim.ipo(0.5)
    end = didsim.fixed_point(objective, even, problem)
    times = np.array([0.1, 0.5, 2.0])
    path = gradient_flow(objective, even, problem, times)
    way = (path[:, 0] - path[:, 1]) / (end[0] - end[1])
    # The loss is (r_0 − r_1)² and a linear function, whose second derivative along (1, −1)/√2 is 4.
    np.testing.assert_allclose(way, 1 - np.exp(-4 * beta**2 * times), rtol=1e-6)
    for way_there, t in zip(way, times, strict=True):

        def ridge_loss(r: np.ndarray, t: float = t) -> float:
            d = r[0] - r[1]
            return float(0.75 * (d - 1) ** 2 + 0.25 * (d + 1) ** 2 + r @ r / (2 * t))

        r = minimize(ridge_loss, np.zeros(2)).x
        assert (r[0] - r[1]) / (end[0] - end[1]) == pytest.approx(4 * t / (1 + 4 * t), rel=1e-5)
        assert 4 * t / (1 + 4 * t) < way_there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [-1.0]}, "`times` must be"),
        ({"times": [2.0, 1.0]}, "`times` must be one axis of ascending numbers"),
        ({"times": [np.inf]}, "`times` must be"),
        ({"tolerance": 0.0}, "`tolerance` must be positive"),
        ({"reference": np.tile(REFERENCE, (2, 1))}, "must have no batch axes"),
        (
            {"start": [np.log(0.5), np.log(0.5), -np.inf, -np.inf]},
            "`start` must give every sequence",
        ),
        ({"problem": didsim.Pairs([4], [0])}, "winners"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"objective": didsim.dpo(1.0), "reference": REFERENCE, "problem": PROBLEM, "times": [1.0]}
    with pytest.raises(ValueError, match=message):
        gradient_flow(**{**given, **change})


def test_new_values_compile_nothing() -> None:
    gradient_flow(didsim.dpo(0.5), REFERENCE, PROBLEM, [1.0, 1e4])
    with counted_compilations() as compiled:
        gradient_flow(didsim.dpo(0.6), CHOSEN, didsim.Contrastive(REFERENCE, CHOSEN), [2.0, 2e4])
    assert compiled == []

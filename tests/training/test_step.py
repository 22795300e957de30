import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import didsim
from didsim.policies import partition
from didsim.training.step import (
    Common,
    Given,
    Minibatches,
    initial_states,
    measure,
    prepared,
    step,
    step_along,
)

SIZE, BETA, RATE = 5, 0.5, 2.0
REFERENCE, TARGET = didsim.normal_logits(jax.random.split(jax.random.key(0)), SIZE)
TRAINED, FIXED = partition(didsim.EnergyBased(TARGET))
COMMON = Common(FIXED, None, {"peak": lambda s: s.log_probs.max()}, None, together=True)
GIVEN = Given(
    reference=REFERENCE,
    target=None,
    problem=didsim.Contrastive(TARGET, REFERENCE),
    objective=didsim.dpo(BETA),
    optimizer=optax.sgd(RATE),
    minibatches=None,
)
ZERO = jnp.zeros((), int)


def logits(tree: Any) -> np.ndarray:
    return np.asarray(tree.logits)


def states(given: Given) -> Any:
    """The optimiser state of one run, from the function that makes those of many."""
    one = jax.tree.map(lambda leaf: leaf[None], TRAINED)
    return jax.tree.map(lambda leaf: leaf[0], initial_states(one, given.optimizer))


def dpo_gradient(winners: np.ndarray, losers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gradient in logits of the mean DPO loss of pairs; the policy's normaliser drops out."""
    h = BETA * (np.asarray(TARGET) - np.asarray(REFERENCE))
    slopes = -BETA / (1 + np.exp(h[winners] - h[losers])) * weights
    gradient = np.zeros(SIZE)
    np.add.at(gradient, winners, slopes)
    np.add.at(gradient, losers, -slopes)
    return gradient


def test_a_step_over_all_pairs_by_hand() -> None:
    winners, losers = (x.ravel() for x in np.indices((SIZE, SIZE)))
    weights = np.exp(np.asarray(TARGET)[winners] + np.asarray(REFERENCE)[losers])
    gradient = dpo_gradient(winners, losers, weights)
    given = prepared(GIVEN)
    stepped = step(TRAINED, states(given), ZERO, given, COMMON)
    assert not stepped.failed
    np.testing.assert_allclose(logits(stepped.trained), np.asarray(TARGET) - RATE * gradient, rtol=1e-12)
    # A record holds that gradient, and a step along it is the same step.
    measured = measure(TRAINED, given, COMMON)
    np.testing.assert_allclose(logits(measured.slope.gradient), gradient, rtol=1e-12)
    assert float(measured.metrics["peak"]) == float(TARGET.max())
    along = step_along(TRAINED, states(given), measured.slope, given, COMMON)
    np.testing.assert_array_equal(logits(along.trained), logits(stepped.trained))


def test_a_minibatch_step_is_over_the_pairs_of_its_own_key() -> None:
    key = jax.random.key(7)
    given = prepared(dataclasses.replace(GIVEN, minibatches=Minibatches(key, 6)))
    ends = []
    for index in range(3):
        pairs = GIVEN.problem.sample(jax.random.fold_in(key, index), 6)
        gradient = dpo_gradient(np.asarray(pairs.winners), np.asarray(pairs.losers), np.full(6, 1 / 6))
        stepped = step(TRAINED, states(given), jnp.asarray(index), given, COMMON)
        np.testing.assert_allclose(logits(stepped.trained), np.asarray(TARGET) - RATE * gradient, rtol=1e-12)
        ends.append(logits(stepped.trained))
    assert not np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[1], ends[2])


def test_a_step_that_fails_keeps_parameters_and_state() -> None:
    given = prepared(dataclasses.replace(GIVEN, optimizer=Partial(optax.sgd, jnp.array(jnp.inf), 0.9)))
    state = optax.sgd(1.0, 0.9).init(TRAINED)
    stepped = step(TRAINED, state, ZERO, given, COMMON)
    assert stepped.failed
    np.testing.assert_array_equal(logits(stepped.trained), TARGET)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(stepped.state), strict=True):
        np.testing.assert_array_equal(old, new)


def test_marginals_are_computed_before_the_first_step_unless_pairs_are_online() -> None:
    problem = didsim.Contrastive(TARGET, REFERENCE)
    marginals = prepared(dataclasses.replace(GIVEN, problem=problem)).marginals
    assert marginals is not None
    np.testing.assert_array_equal(marginals[0], TARGET)
    np.testing.assert_array_equal(marginals[1], REFERENCE)
    online = didsim.Online(TARGET, didsim.OnPolicy())
    assert prepared(dataclasses.replace(GIVEN, problem=online)).marginals is None


def test_with_minibatches_a_record_says_nothing_of_the_loss_over_all_pairs() -> None:
    far = partition(didsim.EnergyBased(jnp.linspace(0, 3000, SIZE)))[0]
    given = prepared(dataclasses.replace(GIVEN, objective=didsim.exponential(1.0)))
    assert measure(far, given, COMMON).diverged
    drawn = dataclasses.replace(given, minibatches=Minibatches(jax.random.key(0), 6))
    assert not measure(far, drawn, COMMON).diverged

"""A reference may have zeros where no pair looks; any other zero is refused by name, at every entrance."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import didsim

with np.errstate(divide="ignore"):
    REFERENCE = np.log([0.5, 0.5, 0.0])
    HALF = np.log([0.4, 0.6, 0.0])
UNIFORM = np.log(np.full(3, 1 / 3))
REWARD = np.array([1.0, -1.0, 5.0])
PAIRS = didsim.Pairs([0, 0, 1], [1, 1, 0], [2.0, 1.0, 1.0])
TABLE = didsim.PreferenceTable([[0.5, 0.75, 0.1], [0.25, 0.5, 0.1], [0.9, 0.9, 0.5]])
UNSEEN: dict[str, didsim.Problem] = {
    "pairs": PAIRS,
    "weightless": didsim.Pairs([0, 2, 1], [1, 1, 0], [3.0, 0.0, 1.0]),
    "joint": PAIRS.joint(3),
    "contrastive": didsim.Contrastive(HALF, REFERENCE),
    "labelled": didsim.Labelled(REWARD, HALF, REFERENCE),
    "table": didsim.LabelledByTable(TABLE, HALF, REFERENCE),
    "mixture": didsim.Mixture((PAIRS, didsim.Contrastive(HALF, UNIFORM)), np.array([0.0, -np.inf])),
}
P01 = didsim.Pairs([0], [1])
POLICY = np.log([0.1, 0.3, 0.6])


@pytest.mark.parametrize("kind", UNSEEN)
def test_zeros_that_no_pair_sees_change_nothing(kind: str) -> None:
    """The loss is a sum over the pairs there are, of log-ratios that are there."""
    problem = UNSEEN[kind]
    shares = np.exp(np.asarray(problem.joint(3).log_probs))
    h = 0.7 * (POLICY[:2] - REFERENCE[:2])
    expected = {"dpo": 0.0, "ipo": 0.0, "nca": 0.0}
    for i in range(2):
        for j in range(2):
            d = h[i] - h[j]
            expected["dpo"] += shares[i, j] * np.logaddexp(0, -d)
            expected["ipo"] += shares[i, j] * (d / 0.7 - 1 / 1.4) ** 2
            expected["nca"] += shares[i, j] * np.logaddexp(0, -h[i])
            expected["nca"] += shares[i, j] * (np.logaddexp(0, h[i]) + np.logaddexp(0, h[j])) / 2
    for name, value in expected.items():
        objective = didsim.OBJECTIVES[name](0.7)
        found, gradient = jax.value_and_grad(
            lambda z, o=objective: o.loss(jax.nn.log_softmax(z), REFERENCE, problem)
        )(jnp.asarray(POLICY))
        assert float(found) == pytest.approx(value, rel=1e-13), name
        assert bool(jnp.isfinite(gradient).all())


def test_the_unseen_sequence_may_take_all_the_mass_at_no_cost() -> None:
    tiny = 1e-300
    losses = [
        float(didsim.dpo(1.0).loss(np.log([p, tiny, 1 - p - tiny]), REFERENCE, P01)) for p in (0.1, 0.5)
    ]
    assert max(losses) < 1e-290


def test_training_goes_the_same_way_whatever_stands_where_no_pair_looks() -> None:
    def run(reference: Any) -> didsim.Run:
        policy = didsim.EnergyBased(jnp.asarray(POLICY))
        return didsim.train(policy, reference, PAIRS, didsim.dpo(0.7), optax.sgd(0.5), 20)

    with_zero, without = run(REFERENCE), run(np.log([0.49, 0.49, 0.02]))
    np.testing.assert_allclose(with_zero.policy.log_probs(), without.policy.log_probs(), rtol=1e-12)
    assert set(without.metrics) - set(with_zero.metrics) == {"did_entropy"}
    assert all(np.isfinite(values).all() for values in with_zero.metrics.values())


def train(objective: didsim.Objective, problem: didsim.Problem, reference: Any) -> Any:
    policy = didsim.EnergyBased(jnp.asarray(POLICY))
    return didsim.train(policy, reference, problem, objective, optax.sgd(0.1), 1)


def loss(objective: didsim.Objective, problem: didsim.Problem, reference: Any) -> Any:
    return objective.loss(POLICY, reference, problem)


@pytest.mark.parametrize("entrance", [train, loss])
def test_zeros_that_a_loss_sees_are_refused_by_name(entrance: Callable[..., Any]) -> None:
    with np.errstate(divide="ignore"):
        seen = np.log([0.0, 0.5, 0.5])
    for problem in (P01, UNSEEN["joint"], didsim.Labelled(REWARD, UNIFORM, HALF)):
        with pytest.raises(ValueError, match=r"`reference` must give every sequence of a pair .* \(0,\)"):
            entrance(didsim.dpo(0.5), problem, seen)
    for objective, problem in (
        (didsim.kto(0.5), P01),
        (didsim.dpo(0.5), didsim.Online(REWARD, didsim.OnPolicy())),
    ):
        with pytest.raises(
            ValueError, match=r"`reference` must give every sequence a positive prob.* \(2,\)"
        ):
            entrance(objective, problem, REFERENCE)
    assert entrance(didsim.kto(0.5, baseline="pairs"), P01, REFERENCE) is not None


def test_a_metric_that_divides_by_the_reference_is_refused_by_name() -> None:
    record = didsim.Record(metrics={"entropy": didsim.METRICS["did_entropy"]})
    with pytest.raises(ValueError, match="`reference` must be without zeros for the metric 'entropy'"):
        didsim.train(
            didsim.EnergyBased(jnp.asarray(POLICY)),
            REFERENCE,
            P01,
            didsim.dpo(),
            optax.sgd(0.1),
            1,
            record=record,
        )


def test_batches_of_references_have_zeros_of_their_own() -> None:
    references = np.stack([REFERENCE, UNIFORM])
    found = didsim.dpo(0.5).loss(POLICY, references, P01)
    for k in range(2):
        assert float(found[k]) == float(didsim.dpo(0.5).loss(POLICY, references[k], P01))

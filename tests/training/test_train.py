import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import xarray as xr
from scipy.special import log_softmax

import didsim
from tests.training.train_cases import ADAM, BETA, PROBLEM, REFERENCE, SEEDS, SIZE, TARGET, train

LBFGS = optax.lbfgs()


@pytest.mark.core
@pytest.mark.parametrize("make", [didsim.dpo, didsim.ipo, didsim.exponential, didsim.reference_free])
def test_training_ends_at_the_fixed_point(make: Any) -> None:
    objective = make(BETA)
    run = train(objective=objective, optimizer=LBFGS, steps=100)
    limit = didsim.fixed_point(objective, REFERENCE, PROBLEM)
    assert float(didsim.js(run.policy.log_probs(), limit).max()) < 1e-10


@pytest.mark.core
def test_labelled_pairs_end_at_their_fixed_point() -> None:
    problem = didsim.Labelled(2 * TARGET, REFERENCE, TARGET)
    run = train(problem=problem, optimizer=LBFGS, steps=100)
    expected = log_softmax(np.asarray(REFERENCE) + 2 * np.asarray(TARGET) / BETA, axis=-1)
    assert float(didsim.js(run.policy.log_probs(), expected).max()) < 1e-10
    # That limit is also what the run is compared with when no target is given.
    assert float(run.metrics["js_to_target"][:, -1].max()) < 1e-10


@pytest.mark.core
def test_an_autoregressive_policy_ends_at_the_same_limit() -> None:
    space = didsim.SequenceSpace(2, 3)
    policy = didsim.Autoregressive.from_log_probs(REFERENCE, space)
    run = train(policy=policy, optimizer=LBFGS, steps=100)
    assert float(run.metrics["js_to_target"][:, -1].max()) < 1e-10
    np.testing.assert_allclose(run.policy.log_probs(), TARGET, atol=1e-4)


def test_a_log_linear_policy_keeps_its_features_and_stays_in_its_family() -> None:
    features = np.random.default_rng(0).normal(size=(SIZE, 2))
    policy = didsim.LogLinear(features, np.zeros(2))
    run = train(policy=policy, optimizer=optax.adamw(0.1, weight_decay=0.1))
    trained: Any = run.policy
    np.testing.assert_array_equal(trained.features, features)
    assert trained.weights.shape == (SEEDS, 2)
    assert float(jnp.abs(trained.weights).max()) > 0.01
    uniform = jnp.full(SIZE, -jnp.log(SIZE))
    centred = np.array(run.policy.log_probs() - uniform)
    centred -= centred.mean(axis=-1, keepdims=True)
    residual = np.linalg.lstsq(features - features.mean(0), centred.T, rcond=None)[1]
    assert np.all(residual < 1e-20)


def test_any_module_with_log_probs_can_be_trained() -> None:
    class Scaled(eqx.Module):
        logits: jax.Array
        scale: jax.Array

        def log_probs(self) -> jax.Array:
            return jax.nn.log_softmax(self.scale[..., None] * self.logits, axis=-1)

    start = Scaled(REFERENCE, jnp.ones(SEEDS))
    run = train(policy=start, optimizer=LBFGS, steps=100)
    assert float(run.metrics["js_to_target"][:, -1].max()) < 1e-9
    assert float(jnp.abs(run.policy.scale - 1).min()) > 0  # type: ignore[attr-defined]


def test_runs_of_a_batch_do_not_touch_each_other() -> None:
    together = train(optimizer=optax.chain(optax.clip_by_global_norm(1e-2), optax.sgd(5.0)))
    for k in range(SEEDS):
        alone = didsim.train(
            didsim.EnergyBased(REFERENCE[k]),
            REFERENCE[k],
            didsim.Contrastive(PROBLEM.chosen[k], PROBLEM.rejected[k]),
            didsim.dpo(BETA),
            optax.chain(optax.clip_by_global_norm(1e-2), optax.sgd(5.0)),
            400,
        )
        for name, values in alone.metrics.items():
            np.testing.assert_allclose(together.metrics[name][k], values, rtol=1e-9, atol=1e-12)


@pytest.mark.core
def test_one_gradient_step_by_hand() -> None:
    run = train(optimizer=optax.sgd(2.0), steps=1)
    for k in range(SEEDS):
        reference, chosen, rejected = (
            np.asarray(p[k]) for p in (REFERENCE, PROBLEM.chosen, PROBLEM.rejected)
        )
        weights = np.exp(chosen)[:, None] * np.exp(rejected)[None, :]
        # At the reference every difference is 0 and the slope of the loss −1/2. The normaliser drops out.
        slope = -BETA / 2 * (weights.sum(axis=1) - weights.sum(axis=0))
        policy: Any = run.policy
        np.testing.assert_allclose(policy.logits[k], reference - 2.0 * slope, rtol=1e-12)


def test_a_policy_without_batch_axes_starts_every_run() -> None:
    run = train(policy=didsim.EnergyBased(jnp.zeros(SIZE)), steps=10)
    assert run.policy.log_probs().shape == (SEEDS, SIZE)
    np.testing.assert_allclose(run.metrics["policy_entropy"][:, 0], np.log(SIZE), rtol=1e-14)


def test_a_batch_of_betas_is_a_batch_of_runs() -> None:
    betas = jnp.array([[0.25], [0.5]])
    run = train(objective=jax.vmap(jax.vmap(didsim.dpo))(betas), optimizer=LBFGS, steps=100)
    assert run.metrics["loss"].shape[:2] == (2, SEEDS)
    limits = didsim.fixed_point(jax.vmap(jax.vmap(didsim.dpo))(betas), REFERENCE, PROBLEM)
    assert float(didsim.js(run.policy.log_probs(), limits).max()) < 1e-8


def test_steps_recorded() -> None:
    assert train(steps=25).steps.tolist() == [0, 10, 20, 25]
    assert train(steps=20).steps.tolist() == [0, 10, 20]
    assert train(steps=3).steps.tolist() == [0, 3]
    run = train(steps=5, record=didsim.Record(every=2))
    assert run.steps.tolist() == [0, 2, 4, 5]
    # The last record is of the policy that comes back.
    np.testing.assert_allclose(
        run.metrics["policy_entropy"][:, -1], didsim.entropy(run.policy.log_probs()), rtol=1e-14
    )


def test_minibatches_are_unbiased_reproducible_and_different_for_each_run() -> None:
    settings: dict[str, Any] = {"optimizer": optax.sgd(1.0), "steps": 1, "batch_size": 20_000}
    one = train(key=jax.random.key(1), **settings)
    again = train(key=jax.random.key(1), **settings)
    other = train(key=jax.random.key(2), **settings)
    exact: Any = train(optimizer=optax.sgd(1.0), steps=1)
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], again.metrics[name])
    assert not np.array_equal(one.metrics["loss"], other.metrics["loss"])
    # A logit's gradient is a mean of 20,000 terms of at most beta/2, so that its deviation is below
    # 0.25/√20,000 = 0.0018; six of them bound all 48 entries.
    for run in (one, other):
        policy: Any = run.policy
        gap = np.abs(policy.logits - exact.policy.logits)
        assert 0 < gap.max() < 6 * 0.25 / np.sqrt(20_000)
    same = train(
        policy=didsim.EnergyBased(REFERENCE[0]),
        reference=REFERENCE[0],
        problem=didsim.Contrastive(REFERENCE[0], jnp.stack([PROBLEM.rejected[0]] * 2)),
        key=jax.random.key(1),
        steps=5,
        batch_size=16,
    )
    assert not np.array_equal(same.metrics["loss"][0], same.metrics["loss"][1])


def test_a_finite_dataset_ends_at_the_minimiser_that_scipy_finds() -> None:
    pairs = PROBLEM.sample(jax.random.key(5), 400)
    run = train(problem=pairs, optimizer=LBFGS, steps=100, target=TARGET)
    for k in range(SEEDS):
        winners, losers, reference = (np.asarray(x[k]) for x in (pairs.winners, pairs.losers, REFERENCE))

        def loss(
            logits: np.ndarray,
            winners: np.ndarray = winners,
            losers: np.ndarray = losers,
            reference: np.ndarray = reference,
        ) -> float:
            h = BETA * (logits - reference)
            return float(np.mean(np.logaddexp(0, h[losers] - h[winners])))

        found = scipy.optimize.minimize(loss, np.zeros(SIZE), options={"gtol": 1e-8})
        # The solver's finite differences stop a little short of the minimum.
        assert float(run.metrics["loss"][k, -1]) <= found.fun
        assert float(run.metrics["loss"][k, -1]) == pytest.approx(found.fun, rel=1e-7)
        np.testing.assert_allclose(np.exp(run.policy.log_probs()[k]), np.exp(log_softmax(found.x)), atol=2e-4)


def test_a_large_space_trains_on_minibatches_without_a_sum_over_all_pairs() -> None:
    """300,000 sequences: a single sum over their pairs takes minutes."""
    size = 300_000
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0)), size)
    record = didsim.Record(10, {"js": didsim.METRICS["js_to_target"], "h": didsim.METRICS["policy_entropy"]})
    began = time.perf_counter()
    run = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, BETA)),
        didsim.dpo(BETA),
        ADAM,
        20,
        record=record,
        batch_size=1000,
        key=jax.random.key(1),
    )
    assert time.perf_counter() - began < 60
    assert run.metrics["js"].shape == (3,)
    assert np.isfinite(run.metrics["h"]).all()


def test_lengths_reach_the_objective() -> None:
    lengths = np.array([1, 2, 3, 1, 2, 3, 1, 2])
    objective = didsim.simpo(1.0, gamma=0)
    run = train(objective=objective, lengths=lengths, optimizer=LBFGS, steps=200)
    limit = didsim.fixed_point(objective, REFERENCE, PROBLEM, lengths)
    assert float(didsim.js(run.policy.log_probs(), limit).max()) < 1e-9


@pytest.mark.core
def test_float32_stays_float32_and_float64_float64() -> None:
    for dtype in (jnp.float32, jnp.float64):
        run = train(policy=didsim.EnergyBased(REFERENCE.astype(dtype)), steps=200)
        assert run.policy.log_probs().dtype == dtype
        assert all(values.dtype == dtype for values in run.metrics.values())
        assert float(run.metrics["js_to_target"][:, -1].max()) < 1e-6


def test_a_reward_that_overflows_ends_the_run() -> None:
    """AlphaPO's reward has `e^(1400/4)` here, beyond float32, as its docstring says."""
    far = jax.nn.log_softmax(jnp.array([-700.0, 0.0, 700.0], jnp.float32))
    with pytest.raises(didsim.DivergenceError):
        train(
            policy=didsim.EnergyBased(far),
            reference=far,
            problem=didsim.Contrastive(far, far[::-1]),
            objective=didsim.alphapo(),
            target=far,
            steps=1,
        )


@pytest.mark.parametrize("name", sorted(set(didsim.OBJECTIVES) - {"alphapo"}))
def test_no_metric_is_nan_on_one_sequence_or_with_logits_of_700(name: str) -> None:
    one = jnp.zeros(1, jnp.float32)
    far = jax.nn.log_softmax(jnp.array([-700.0, 0.0, 700.0], jnp.float32))
    both = didsim.Contrastive(far, far[::-1]), didsim.Labelled(far, far[::-1], far)
    for policy, problem in (
        (one, didsim.Contrastive(one, one)),
        (far, didsim.Mixture(both, jnp.log(jnp.array([0.5, 0.5], jnp.float32)))),
    ):
        run = train(
            policy=didsim.EnergyBased(policy),
            reference=policy,
            problem=problem,
            objective=didsim.OBJECTIVES[name](),
            target=policy,
            steps=20,
        )
        assert {k for k, values in run.metrics.items() if np.isnan(values).any()} == set()


def test_a_problem_of_ones_own() -> None:
    class Halved(didsim.Contrastive):
        """Half of the pairs have their label turned around."""

        def expect(self, kernel: Any, x: jax.Array, offset: jax.Array | None = None) -> jax.Array:
            return (super().expect(kernel, x, offset) + super().expect(kernel, -x, offset)) / 2

    run = train(
        problem=Halved(PROBLEM.chosen, PROBLEM.rejected), policy=didsim.EnergyBased(TARGET), steps=300
    )
    # The turned half takes the learning signal away: DPO falls back to the reference.
    assert float(didsim.js(run.policy.log_probs(), REFERENCE).max()) < 1e-4


def test_train_says_that_it_compiles_itself() -> None:
    with pytest.raises(ValueError, match="`train` must be called outside jit, vmap and grad"):
        jax.jit(lambda logits: train(policy=didsim.EnergyBased(logits)).metrics["loss"])(REFERENCE)


def test_to_dataset_is_labelled_and_opens_in_xarray(tmp_path: Any) -> None:
    dataset = train(steps=20).to_dataset(("seed",))
    assert dataset["loss"].dims == ("seed", "step")
    assert dataset["policy_entropy"].attrs == {"long_name": "Policy entropy", "units": "nats"}
    dataset.to_netcdf(tmp_path / "run.nc", engine="scipy")
    xr.testing.assert_equal(xr.open_dataset(tmp_path / "run.nc"), dataset)
    with pytest.raises(ValueError, match="`batch_dims` must name every batch axis"):
        train(steps=20).to_dataset()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "`steps` must be an integer of at least 0; got -1"),
        ({"steps": 2.5}, "`steps` must be an integer of at least 0; got 2.5"),
        ({"batch_size": 0, "key": jax.random.key(0)}, "`batch_size` must be an integer of at least 1"),
        ({"batch_size": 8}, "`key` must be given with `batch_size`; got None"),
        ({"batch_size": 8, "key": 0}, "`key` must be a typed random key"),
        ({"reference": REFERENCE + 1}, "`reference` must be log-probabilities normalised"),
        ({"target": TARGET * jnp.nan}, "`target` must be log-probabilities; got NaN"),
        ({"reference": jnp.full(4, -jnp.log(4))}, "must agree in their last axis, sequences"),
        ({"target": jnp.full((2, SIZE), -jnp.log(SIZE))}, "must broadcast together"),
        (
            {"problem": didsim.Contrastive(jnp.full(4, -jnp.log(4)), jnp.full(4, -jnp.log(4)))},
            "`problem` must be over 8 sequences; got one over 4",
        ),
        (
            {"problem": didsim.Pairs(np.array([0]), np.array([SIZE]))},
            "`losers` must index one of 8 sequences",
        ),
        ({"policy": didsim.dpo()}, "`policy` must be a module with log_probs"),
        ({"problem": REFERENCE}, "`problem` must be a Problem"),
        ({"objective": didsim.dpo}, "`objective` must be an Objective"),
        ({"optimizer": 0.1}, "`optimizer` must be an optax optimiser"),
        ({"record": 10}, "`record` must be a Record"),
        ({"lengths": [1, 2]}, "`lengths` must have one entry for each of 8 sequences"),
        (
            {
                "record": didsim.Record(metrics={"js": didsim.METRICS["js_to_target"]}),
                "objective": didsim.ipo(),
            },
            "`target` must be given for the metric 'js'",
        ),
    ],
)
def test_wrong_arguments_are_named_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**changes)


def test_a_callers_arrays_outlive_the_buffers() -> None:
    logits = jnp.array(REFERENCE)
    policy = didsim.EnergyBased(logits)
    train(policy=policy, steps=5)
    train(policy=policy, steps=5)
    np.testing.assert_array_equal(logits, REFERENCE)


def test_the_recorded_gradient_is_the_next_steps() -> None:
    """Records and steps share a gradient, so that how often is recorded changes nothing."""
    often = train(record=didsim.Record(every=1), steps=12)
    seldom = train(record=didsim.Record(every=12), steps=12)
    np.testing.assert_allclose(often.policy.log_probs(), seldom.policy.log_probs(), rtol=1e-13)
    np.testing.assert_allclose(often.metrics["loss"][:, -1], seldom.metrics["loss"][:, -1], rtol=1e-13)


def test_metrics_that_count_pairs_are_recorded_when_asked_for() -> None:
    assert not {"fraction_ordered", "reward_accuracy"} & set(train(steps=0).metrics)
    run = train(steps=0, record=didsim.Record(metrics=didsim.METRICS))
    assert set(run.metrics) == set(didsim.METRICS)

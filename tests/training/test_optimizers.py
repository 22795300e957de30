from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from scipy.special import expit

import didsim
from tests.compilations import counted_compilations
from tests.training.train_cases import BETA, REFERENCE, SEEDS, SIZE, TARGET, train


def test_new_values_compile_nothing() -> None:
    train(key=jax.random.key(1), batch_size=16, target=TARGET)
    with counted_compilations() as compiled:
        train(
            objective=didsim.dpo(2.5),
            key=jax.random.key(2),
            batch_size=16,
            target=REFERENCE,
            reference=TARGET,
            problem=didsim.Contrastive(TARGET, REFERENCE),
        )
        assert compiled == []
        train(batch_size=17, key=jax.random.key(2), target=TARGET)
        assert compiled, "the listener sees a compilation when there is one"


def test_another_learning_rate_compiles_nothing() -> None:
    def run(seed: int, beta: float, rate: float) -> didsim.Run:
        reference, target = didsim.normal_logits(jax.random.split(jax.random.key(seed), (2, SEEDS)), SIZE)
        return didsim.train(
            didsim.EnergyBased(reference),
            reference,
            didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta)),
            didsim.dpo(beta),
            Partial(optax.adam, rate),
            20,
            target=target,
        )

    first = run(0, 0.5, 0.1)
    with counted_compilations() as compiled:
        second = run(1, 0.25, 0.05)
        assert compiled == []
    assert not np.array_equal(first.metrics["loss"], second.metrics["loss"])


def test_an_optimiser_with_its_settings_apart_is_the_same_optimiser() -> None:
    apart = train(optimizer=Partial(optax.adam, 0.1), steps=30)
    whole = train(optimizer=optax.adam(0.1), steps=30)
    np.testing.assert_allclose(apart.metrics["loss"], whole.metrics["loss"], rtol=1e-12)


def test_a_batch_of_learning_rates_is_a_batch_of_runs() -> None:
    rates = np.array([[0.01], [0.1]])
    run = train(optimizer=Partial(optax.adam, learning_rate=rates, b2=0.9), steps=30)
    assert run.metrics["loss"].shape == (2, SEEDS, 4)
    for row, rate in enumerate(rates[:, 0]):
        alone = train(optimizer=optax.adam(rate, b2=0.9), steps=30)
        np.testing.assert_allclose(run.metrics["loss"][row], alone.metrics["loss"], rtol=1e-12)


def test_wrong_meshes_and_optimisers_are_named() -> None:
    one = jax.make_mesh((1,), ("runs",))
    assert train(steps=3, mesh=one).metrics["loss"].shape == (SEEDS, 2)
    with pytest.raises(ValueError, match=r"`mesh` must have one axis, and .* divides 3 runs; got axes"):
        train(steps=3, mesh=jax.make_mesh((1, 1), ("a", "b")))
    with pytest.raises(ValueError, match=r"`mesh` must be a jax\.sharding\.Mesh"):
        train(steps=3, mesh="cpu")
    with pytest.raises(ValueError, match="`optimizer` must be an optax optimiser, or a Partial"):
        train(steps=3, optimizer=Partial(lambda rate: rate, 0.1))
    with pytest.raises(ValueError, match="must broadcast together"):
        train(steps=3, optimizer=Partial(optax.adam, np.ones(2)))
    with pytest.raises(ValueError, match="whose arguments are numbers or arrays; got True"):
        train(steps=3, optimizer=Partial(optax.adam, 0.1, nesterov=True))
    with pytest.raises(ValueError, match="must be called outside jit"):
        jax.vmap(lambda rate: train(steps=3, optimizer=Partial(optax.adam, rate)).policy)(jnp.ones(2))


def test_the_state_of_the_optimiser_is_that_of_a_run_by_hand() -> None:
    """Ten steps of Adam on the gradient of the same loss, in NumPy."""
    run = train(optimizer=optax.adam(0.1), steps=10)
    state = run.state[0]
    assert state.count.tolist() == [10] * SEEDS
    for seed in range(SEEDS):
        logits, mean, square = np.asarray(REFERENCE[seed]), np.zeros(SIZE), np.zeros(SIZE)
        for step in range(1, 11):
            gradient = _gradient(logits, seed)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            steps = mean / (1 - 0.9**step), square / (1 - 0.999**step)
            logits = logits - 0.1 * steps[0] / (np.sqrt(steps[1]) + 1e-8)
        np.testing.assert_allclose(state.mu.logits[seed], mean, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(state.nu.logits[seed], square, rtol=1e-6, atol=1e-14)
        np.testing.assert_allclose(_logits(run.policy)[seed], logits, rtol=1e-8)


def test_an_averaged_policy_is_recorded_where_it_is_asked_for() -> None:
    optimizer = optax.contrib.schedule_free(optax.sgd(1.0), 1.0)
    evaluate = optax.contrib.schedule_free_eval_params
    plain = train(optimizer=optimizer, steps=20, target=TARGET, record=didsim.Record(every=5))
    run = train(
        optimizer=optimizer, steps=20, target=TARGET, record=didsim.Record(every=5, evaluate=evaluate)
    )
    np.testing.assert_allclose(_logits(run.policy), _logits(plain.policy), rtol=1e-12)
    assert plain.evaluated is None
    for seed in range(SEEDS):
        # The average x of trained points y = b1 x + (1 − b1) z, from the state of the run.
        b1, z = float(plain.state.b1[seed]), np.asarray(plain.state.z.logits[seed])
        average = (np.asarray(_logits(plain.policy)[seed]) - (1 - b1) * z) / b1
        np.testing.assert_allclose(_logits(run.evaluated)[seed], average, rtol=1e-12)
        p, q = np.exp(average - np.logaddexp.reduce(average)), np.exp(np.asarray(TARGET[seed]))
        middle = (p + q) / 2
        js = (p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2
        assert run.metrics["js_to_target"][seed, -1] == pytest.approx(js, rel=1e-9)
    assert not np.allclose(run.metrics["js_to_target"][:, -1], plain.metrics["js_to_target"][:, -1])
    with pytest.raises(ValueError, match="`evaluate` must be a function of an optimiser's state"):
        didsim.Record(evaluate=3)  # type: ignore[arg-type]


def test_sharpness_aware_steps_use_the_gradient_at_the_worse_point() -> None:
    """A step of SAM goes along the gradient at `logits + 0.05 · gradient / ‖gradient‖`."""
    worse = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    run = train(optimizer=optax.contrib.sam(optax.sgd(0.3), worse, opaque_mode=True), steps=3)
    seen = train(optimizer=optax.contrib.sam(optax.sgd(0.3), worse), steps=6)
    for seed in range(SEEDS):
        logits = np.asarray(REFERENCE[seed])
        for _ in range(3):
            up = _gradient(logits, seed)
            logits = logits - 0.3 * _gradient(logits + 0.05 * up / np.linalg.norm(up), seed)
        np.testing.assert_allclose(_logits(run.policy)[seed], logits, rtol=1e-10)
        np.testing.assert_allclose(_logits(seen.policy)[seed], logits, rtol=1e-10)


def test_wrappers_of_optimisers_are_trained_or_refused_by_name() -> None:
    twice = optax.MultiSteps(optax.sgd(0.1), 2)
    run = train(optimizer=twice.gradient_transformation(), steps=4)
    alone = train(optimizer=optax.sgd(0.1), steps=2)
    # The mean of two equal gradients is taken every second step, with weights that optax holds in float32.
    np.testing.assert_allclose(_logits(run.policy), _logits(alone.policy), rtol=1e-7)
    with pytest.raises(ValueError, match=r"`optimizer` .* optax\.MultiSteps, .* gradient_transformation\(\)"):
        train(optimizer=twice)
    lookahead = optax.lookahead(optax.sgd(0.1), 5, 0.5)
    for two_copies in (lookahead, optax.chain(optax.clip(1.0), lookahead)):
        with pytest.raises(ValueError, match=r"`optimizer` must train one copy .* optax\.lookahead has two"):
            train(optimizer=two_copies)
    broken = optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: params.fast)
    with pytest.raises(ValueError, match=r"`optimizer` must train the parameters .* AttributeError"):
        train(optimizer=broken, steps=1)
    with pytest.raises(ValueError, match="`optimizer` must make an optimiser of its arguments"):
        train(optimizer=Partial(optax.adam, 0.1, 0.9, 0.9, 1e-8, 0.0, 1.0, 2.0, 3.0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_an_optimizer_that_keeps_its_state_in_half_precision_is_refused(dtype: Any) -> None:
    by_name = {
        "sgd": optax.sgd(0.1, momentum=0.9, accumulator_dtype=dtype),
        "adam": optax.adam(0.1, mu_dtype=dtype),
        "lion": optax.lion(0.1, mu_dtype=dtype),
        "chain": optax.chain(optax.clip(1.0), optax.trace(0.9, accumulator_dtype=dtype)),
        "Partial": Partial(lambda rate: optax.sgd(rate, momentum=0.9, accumulator_dtype=dtype), 0.1),
    }
    for optimizer in by_name.values():
        with pytest.raises(ValueError, match=f"`optimizer` must have dtype .*; got {jnp.dtype(dtype).name}"):
            train(optimizer=optimizer, steps=1)


def _logits(policy: Any) -> np.ndarray:
    return np.asarray(policy.logits)


def _gradient(logits: np.ndarray, seed: int) -> np.ndarray:
    """The gradient of DPO's expected loss over all pairs. The normaliser of the policy cancels in it."""
    reference, target = np.asarray(REFERENCE[seed]), np.asarray(TARGET[seed])
    rejected = np.exp(reference - BETA * (target - reference))
    weights = np.exp(reference)[:, None] * (rejected / rejected.sum())[None, :]
    reward = BETA * (logits - reference)
    pull = BETA * weights * expit(reward[None, :] - reward[:, None])
    return np.asarray(pull.sum(axis=0) - pull.sum(axis=1))

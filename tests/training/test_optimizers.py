import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import didsim
from tests.compilations import counted_compilations
from tests.training.train_cases import REFERENCE, SEEDS, SIZE, TARGET, train


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

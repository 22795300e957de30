from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import didsim
from tests.training.train_cases import REFERENCE, SEEDS, SIZE, TARGET, train


def test_divergence_says_when_and_where_and_keeps_the_records() -> None:
    # The second run of three has a learning signal that the exponential loss cannot hold.
    steep = REFERENCE.at[1].set(jax.nn.log_softmax(REFERENCE[1] * 100))
    with pytest.raises(didsim.DivergenceError) as caught:
        train(
            reference=REFERENCE,
            problem=didsim.Contrastive(steep, jnp.flip(steep, -1)),
            objective=didsim.exponential(3.0),
            optimizer=optax.sgd(30.0),
            steps=300,
            record=didsim.Record(every=1),
        )
    error = caught.value
    assert "`run`" in str(error)
    assert f"not finite at step {error.step} in {error.failed.sum()} of 3 runs" in str(error)
    assert "learning rate" in str(error)
    assert error.failed.shape == (SEEDS,)
    assert error.failed.any()
    assert 0 < error.step < 300
    assert error.run.steps.tolist() == list(range(error.step + 1))[: len(error.run.steps)]
    assert len(error.run.steps) in (error.step, error.step + 1)
    for values in error.run.metrics.values():
        assert values.shape[1] == len(error.run.steps)
    assert np.isfinite(error.run.metrics["loss"]).all()
    assert np.isfinite(error.run.policy.log_probs()).all()


def test_a_loss_that_is_infinite_from_the_start() -> None:
    far = didsim.EnergyBased(jnp.linspace(0, 3000, SIZE))
    with pytest.raises(didsim.DivergenceError, match="at step 0") as caught:
        train(policy=far, objective=didsim.exponential(1.0))
    assert len(caught.value.run.steps) == 0
    assert "nothing" in str(caught.value)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_an_infinite_loss_stops_a_run_that_does_not_record_it(steps: int, batch_size: int | None) -> None:
    """Adam's second moment overflows with the loss, so that the parameters stay where they are, finite."""
    if steps == 0 and batch_size is not None:
        return
    with pytest.raises(didsim.DivergenceError, match="at step 0"):
        train(
            policy=didsim.EnergyBased(REFERENCE.astype(jnp.float32)),
            objective=1e10 * didsim.ipo(1e-19),
            steps=steps,
            record=didsim.Record(1, {"js": didsim.METRICS["js_to_target"]}),
            target=TARGET,
            batch_size=batch_size,
            key=jax.random.key(0),
        )


@pytest.mark.parametrize("batch_size", [None, 16])
def test_runs_that_diverge_are_recorded_and_leave_the_others_alone(batch_size: int | None) -> None:
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(3)), 6)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
    arguments: Any = {
        "policy": didsim.EnergyBased(reference),
        "reference": reference,
        "problem": problem,
        "objective": didsim.exponential(1.0),
        "steps": 25,
        "record": didsim.Record(10),
        "batch_size": batch_size,
        "key": jax.random.split(jax.random.key(0), 3),
        "target": target,
        "on_divergence": "record",
    }

    def run_at(rates: Any, **changes: Any) -> didsim.Run:
        return didsim.train(**arguments | {"optimizer": Partial(optax.sgd, rates), **changes})

    fine = run_at(jnp.array([0.1, 0.3, 0.2]))
    assert (fine.diverged_at == -1).all()
    # The second run overflows at once; the first and the third do not.
    mixed = run_at(jnp.array([0.1, 1e6, 0.2]))
    assert mixed.diverged_at[0] == mixed.diverged_at[2] == -1
    step = int(mixed.diverged_at[1])
    assert 0 < step < 25
    assert mixed.steps.tolist() == [0, 10, 20, 25]
    for name, values in mixed.metrics.items():
        for other in (0, 2):
            np.testing.assert_array_equal(values[other], fine.metrics[name][other], err_msg=name)
            assert np.isfinite(values[other]).all()
        assert np.isfinite(values[1, 0])
        assert np.isnan(values[1, 1:]).all()
    assert np.isfinite(mixed.policy.log_probs()).all()
    # Told to raise, the same runs stop at the same step.
    with pytest.raises(didsim.DivergenceError) as caught:
        run_at(jnp.array([0.1, 1e6, 0.2]), on_divergence="raise")
    assert caught.value.step == step
    assert caught.value.failed.tolist() == [False, True, False]
    assert (caught.value.run.diverged_at == [-1, step, -1]).all()


def test_a_wrong_way_to_diverge_is_named() -> None:
    p = jnp.log(jnp.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="`on_divergence` must be 'raise' or 'record'; got 'ignore'"):
        didsim.train(
            didsim.EnergyBased(p),
            p,
            didsim.Contrastive(p, p),
            didsim.dpo(),
            optax.sgd(0.1),
            1,
            on_divergence="ignore",  # type: ignore[arg-type]
        )

"""Several devices and several processes, each test in processes of its own."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

RUNS = """
    import jax, jax.numpy as jnp, numpy as np, optax, didsim

    def run(mesh):
        keys = jax.random.split(jax.random.key(0), (2, 8))
        reference, target = didsim.normal_logits(keys, 100)
        problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.1))
        return didsim.train(
            didsim.EnergyBased(reference),
            reference,
            problem,
            didsim.dpo(0.1),
            optax.adam(0.03),
            25,
            mesh=mesh,
        )

    def as_one(mesh):
        spread, single = run(mesh), run(None)
        assert spread.steps.tolist() == single.steps.tolist() == [0, 10, 20, 25]
        for name, values in single.metrics.items():
            np.testing.assert_allclose(spread.metrics[name], values, rtol=1e-6, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(spread.policy.log_probs(), single.policy.log_probs(), rtol=1e-6)
"""


def start(script: str, devices: int, *arguments: str) -> subprocess.Popen[str]:
    flags = os.environ.get("XLA_FLAGS", "")
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUNS) + textwrap.dedent(script), *arguments],
        env=os.environ | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, error = process.communicate(timeout=240)
    assert process.returncode == 0, error[-3000:]
    return output


@pytest.mark.slow
def test_a_batch_of_runs_over_four_devices_is_that_on_one() -> None:
    script = """
        assert len(jax.devices()) == 4
        as_one(jax.make_mesh((4,), ("runs",)))
        try:
            run(jax.make_mesh((3,), ("runs",), devices=jax.devices()[:3]))
        except ValueError as error:
            assert "divides 8 runs" in str(error)
        else:
            raise AssertionError
    """
    finish(start(script, 4))


@pytest.mark.slow
def test_runs_over_two_devices_say_where_they_diverged() -> None:
    script = """
        from jax.tree_util import Partial

        reference, target = didsim.normal_logits(jax.random.split(jax.random.key(3)), 6)
        try:
            didsim.train(
                didsim.EnergyBased(reference),
                reference,
                didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5)),
                didsim.exponential(1.0),
                Partial(optax.sgd, jnp.array([0.1, 1e6])),
                25,
                target=target,
                mesh=jax.make_mesh((2,), ("runs",)),
            )
        except didsim.DivergenceError as error:
            assert error.failed.tolist() == [False, True]
            assert "in 1 of 2 runs, first at batch index (1,)" in str(error)
        else:
            raise AssertionError
    """
    finish(start(script, 2))


@pytest.mark.slow
def test_one_large_distribution_over_four_devices_is_that_on_one() -> None:
    script = """
        import re
        from jax.sharding import AxisType, NamedSharding, PartitionSpec

        jax.config.update("jax_enable_x64", True)
        mesh = jax.make_mesh((4,), ("sequences",), axis_types=(AxisType.Auto,))
        spread = NamedSharding(mesh, PartitionSpec("sequences"))
        size = 2**16
        logits, reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0), 3), size)
        labelled = didsim.Labelled(target, reference, logits)
        assert labelled.separable
        contrastive = didsim.Contrastive(reference, target)
        for problem, objective in ((contrastive, didsim.dpo(0.5)), (labelled, didsim.ipo(0.5))):

            def loss(logits, reference, problem):
                policy = jax.nn.log_softmax(logits)
                return objective.population_loss(policy, reference, problem, None, None)

            compiled = jax.jit(jax.value_and_grad(loss))
            value, gradient = compiled(logits, reference, problem)
            place = lambda tree: jax.device_put(tree, spread)
            there = compiled(place(logits), place(reference), jax.tree.map(place, problem))
            assert there[1].sharding.is_equivalent_to(spread, 1)
            np.testing.assert_allclose(there[0], value, rtol=1e-12)
            size_of = float(jnp.abs(gradient).max())
            assert size_of > 1e-6
            np.testing.assert_allclose(there[1], gradient, rtol=0, atol=1e-10 * size_of)
    """
    finish(start(script, 4))


@pytest.mark.slow
def test_two_processes_with_two_devices_each_are_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = """
        import sys

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
        assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
        as_one(jax.make_mesh((4,), ("runs",)))
    """
    processes = [start(script, 2, address, str(k)) for k in range(2)]
    for process in processes:
        finish(process)

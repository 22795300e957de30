"""Experiments that repeat other people's toys."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from experiments import sampling_rates

SAMPLERS = {
    "uniform": didsim.Uniform(),
    "reward": didsim.RewardDifference("reward"),
    "policy": didsim.RewardDifference("policy"),
}


def online_loss(sampler: str, reward: jax.Array, beta: float, at: jax.Array, logits: jax.Array) -> jax.Array:
    """DPO's loss of some logits, on the pairs that a sampler draws for the policy with the logits `at`."""
    uniform = jnp.full(reward.shape, -jnp.log(reward.size))
    held = jax.nn.log_softmax(at)
    pairs = didsim.Online(reward, SAMPLERS[sampler]).at(held, beta * (held - uniform))
    return didsim.dpo(beta).loss(jax.nn.log_softmax(logits), uniform, pairs)


@pytest.mark.parametrize("sampler", sampling_rates.SAMPLERS)
def test_samplers_descend_the_loss_of_online_pairs(sampler: str) -> None:
    beta, rate = 1.7, 2.5
    reward = jax.random.normal(jax.random.key(1), (2, 4))
    rates = jnp.full((1, 2), rate)
    found = np.asarray(sampling_rates.errors_along(reward, rates, jnp.asarray(beta), sampler, 3))[0]
    for seed in range(2):
        logits = jnp.zeros(4)
        slope = jax.jit(jax.grad(lambda z, at, seed=seed: online_loss(sampler, reward[seed], beta, at, z)))
        for step in range(4):
            off = np.asarray(beta * logits - reward[seed])
            assert found[seed, step] == pytest.approx(np.abs(off[:, None] - off[None, :]).mean(), rel=1e-9)
            logits = logits - rate * slope(logits, logits)


@pytest.mark.parametrize("sampler", sampling_rates.SAMPLERS)
def test_safe_rates_are_those_of_the_hessian_at_the_optimum(sampler: str) -> None:
    beta = 0.8
    reward = jax.random.normal(jax.random.key(2), (1, 5))
    best = reward[0] / beta
    hessian = jax.hessian(lambda z: online_loss(sampler, reward[0], beta, best, z))(best)
    found = sampling_rates.curvatures(reward, sampler, beta)[0]
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian)[1:], rtol=1e-6)
    assert found[-1] <= beta**2 / (2 * 5)
    if sampler != "uniform":
        d = np.subtract.outer(*np.asarray(reward)[[0, 0]])
        np.testing.assert_allclose(found, 2 * beta**2 * 5 / np.sum(2 + np.exp(d) + np.exp(-d)), rtol=1e-9)


def test_orders_and_shares_of_sampling_rates_are_told() -> None:
    config = sampling_rates.Config(vocab_size=6, seeds=5, steps=40, multiples=(0.5, 1.2))
    dataset = sampling_rates.run(config)
    best = dataset["error"].sel(setting="best")
    assert sampling_rates.order(best.sel(sampler="uniform")) == pytest.approx(1, abs=0.1)
    for sampler in ("reward", "policy"):
        assert sampling_rates.order(best.sel(sampler=sampler)) == pytest.approx(2, abs=0.3)
    ends = dataset["end"]
    arrived = [100 * float((ends.sel(multiple=one) < 1e-6).mean()) for one in (0.5, 1.2)]
    told = sampling_rates.finding(dataset)
    shares = [float(one) for one in re.findall(r"([\d.]+)%", told)]
    np.testing.assert_allclose(shares[-2:], arrived, atol=0.5)
    assert arrived[0] > 90
    assert arrived[1] == 0
    np.testing.assert_allclose(shares[3:6], 100 * (dataset["safe_rate"] < 10).mean("seed"), atol=0.5)

"""What several test files of this folder share."""

import functools
from typing import Any

import jax
import numpy as np
import optax
import scipy.optimize
from scipy.special import log_softmax

import didsim
from tests import papers

SIZE, SEEDS, BETA = 6, 3, 0.5
RNG = np.random.default_rng(0)
REFERENCE, CHOSEN = log_softmax(RNG.normal(size=(2, SEEDS, SIZE)), axis=-1)
# No preference is surer than 0.8, as robust DPO with a fifth of all labels flipped asks for.
REJECTED = log_softmax(CHOSEN + RNG.uniform(-0.6, 0.6, size=(SEEDS, SIZE)), axis=-1)
PROBLEM = didsim.Contrastive(CHOSEN, REJECTED)
LENGTHS = np.array([1, 2, 2, 3, 1, 4])
OBJECTIVES = papers.make(BETA)


@functools.cache
def solved(name: str) -> didsim.Solution:
    return didsim.solve(OBJECTIVES[name], REFERENCE, PROBLEM, LENGTHS)


def table_of(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return np.exp(chosen)[..., :, None] * np.exp(rejected)[..., None, :]


TABLES = table_of(CHOSEN, REJECTED)


def loss_of(
    name: str, logits: Any, held: Any, reference: np.ndarray, table: np.ndarray, beta: float = BETA
) -> float:
    """The expectation over a table of pairs of the loss that the paper has."""
    p, held = log_softmax(logits), log_softmax(held)
    rewards = beta * (held - reference)
    baseline = {
        "bco": np.sum(table * (rewards[:, None] + rewards) / 2),
        "kto": max(0.0, np.sum(np.exp(held) * rewards)),
    }.get(name, 0.0)
    pair = papers.Pair(
        *(p[:, None], p[None, :], reference[:, None], reference[None, :]),
        *(LENGTHS[: len(p), None], LENGTHS[None, : len(p)], baseline),
    )
    return float(np.sum(table * papers.PAPERS[name](beta, pair)))


def gradient_of(name: str, log_probs: Any, reference: np.ndarray, table: np.ndarray) -> np.ndarray:
    """In logits, by differences of fourth order: good to some 1e-12 where rewards are a few nats."""
    log_probs, step = np.asarray(log_probs, float), 1e-3

    def along(direction: np.ndarray) -> float:
        at = {
            k: loss_of(name, log_probs + k * step * direction, log_probs, reference, table)
            for k in (-2, -1, 1, 2)
        }
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)

    return np.array([along(direction) for direction in np.eye(len(log_probs))])


STEPS = 6000
ADAM = optax.adam(optax.cosine_decay_schedule(0.1, STEPS), b2=0.99)
LAST = didsim.Record(every=10_000, metrics={"loss": didsim.METRICS["loss"]})


def trained(objective: didsim.Objective, problem: Any = PROBLEM) -> jax.Array:
    policy = didsim.EnergyBased(np.zeros((SEEDS, SIZE)))  # DPO-positive may have its limit at the reference
    run = didsim.train(policy, REFERENCE, problem, objective, ADAM, STEPS, record=LAST, lengths=LENGTHS)
    return run.policy.log_probs()


def on_the_boundary(gains: np.ndarray, reference: np.ndarray, beta: float, z: float) -> np.ndarray:
    """The maximiser of `Σ gains · σ(beta log(π/ref) − z)` over the simplex, by its optimality conditions.

    The gain of a little more mass, `g beta σ′(h − z) / π`, falls in `π` for `beta ≤ 1`, from infinity. So it
    is one multiplier for all whose gain is positive.
    """
    ref = np.exp(reference)

    def mass(log_multiplier: float) -> np.ndarray:
        def one(gain: float, ref: float) -> float:
            if gain <= 0:
                return 0.0

            def log_slope(t: float) -> float:
                h = beta * t - z
                surprises = np.logaddexp(0, h) + np.logaddexp(0, -h)
                return float(np.log(gain * beta / ref) - surprises - t - log_multiplier)

            return ref * np.exp(scipy.optimize.brentq(log_slope, -500, 500, xtol=1e-15))

        return np.array([one(*numbers) for numbers in zip(gains, ref, strict=True)])

    return mass(scipy.optimize.brentq(lambda m: mass(m).sum() - 1, -100, 100, xtol=1e-15))


REWARD = RNG.normal(size=(SEEDS, SIZE)) / 2


FEATURES = np.random.default_rng(5).normal(size=(SIZE, 2))

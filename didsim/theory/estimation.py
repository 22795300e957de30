"""Section 6: DID entropy from samples."""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array

from didsim.information import did, did_entropy
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, claim, exact, off

_SAMPLES = 32


@exact(
    6, OURS, "For samples of π, the weights 1/π_ref have the mean Z = Σ π/π_ref, the normaliser of the DID"
)
def weights_are_unbiased(case: Case) -> Array:
    """The expectation over the policy, in logarithms, against `log(π/π_ref) − log q`."""
    log_weights = -case.reference
    log_mean = logsumexp(case.target + log_weights)
    by_did = case.target - case.reference - did(case.target, case.reference)
    return off(log_mean, by_did, case.target, case.reference)


@claim(6, PAPER, "32 samples estimate the DID's entropy to within 0.25 nats")
def thirty_two_samples(case: Case) -> Array:
    """The self-normalised estimate from one set of samples."""
    drawn = jax.random.categorical(case.key, case.target, shape=(_SAMPLES,))
    log_weights = -case.reference[drawn]
    log_z = logsumexp(log_weights) - jnp.log(_SAMPLES)
    ratio = (case.target - case.reference)[drawn]
    estimate = log_z - jnp.sum(jax.nn.softmax(log_weights) * ratio)
    return jnp.abs(estimate - did_entropy(case.target, case.reference)) < 0.25

"""Section 1: the Differential Information Distribution, `q_{a/b} ∝ a/b`."""

import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp
from jaxtyping import Array

from didsim.information import bayes_update, did, did_entropy, entropy
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, exact, largest, off


@exact(
    1,
    PAPER,
    "If the prior is b and the likelihood of the evidence is ∝ q_{a/b}, the posterior is a: a ∝ b · q_{a/b}",
)
def bayes(case: Case) -> Array:
    """The posterior from the DID."""
    a, b = case.target, case.reference
    return off(bayes_update(b, did(a, b)), a, b, a - b)


@exact(
    1,
    PAPER,
    "With c = min b/a, P(X|y) = c · a(y)/b(y) is a likelihood and P(X) = c. A larger c gives some P(X|y) > 1",
)
def evidence(case: Case) -> Array:
    """The event behind an update, in logarithms."""
    a, b = case.target, case.reference
    log_c = jnp.min(b - a)
    likelihood = log_c + a - b
    posterior = log_softmax(b + likelihood)
    return largest(
        off(jnp.max(likelihood), jnp.zeros(()), a, b),
        off(logsumexp(b + likelihood), log_c, a, b),
        off(posterior, a, b, likelihood),
    )


@exact(1, PAPER, "The DID of the inverse update is the inverse: q_{b/a} ∝ 1/q_{a/b}")
def inverse(case: Case) -> Array:
    """Both directions of one update."""
    a, b = case.target, case.reference
    return off(did(b, a), log_softmax(-did(a, b)), a - b)


@exact(1, PAPER, "The DIDs of successive updates multiply: q_{c/a} ∝ q_{c/b} · q_{b/a}")
def chain(case: Case) -> Array:
    """From `a` to `c` by way of `b`."""
    a, b, c = case.reference, case.target, case.third
    return off(did(c, a), log_softmax(did(c, b) + did(b, a)), c - b, b - a)


@exact(
    1, PAPER, "Without an update the DID is uniform, and its entropy is the largest: q_{a/a} = 1/N, H = log N"
)
def no_update(case: Case) -> Array:
    """The DID of a policy against itself."""
    a = case.target
    log_n = jnp.log(case.size)
    return largest(off(did(a, a), -log_n), off(did_entropy(a, a), log_n))


@exact(1, PAPER, "If the reference is uniform, the DID is the policy itself")
def uniform_prior(case: Case) -> Array:
    """The DID against a uniform `b`."""
    a = case.target
    return off(did(a, jnp.full_like(a, -jnp.log(case.size))), a)


@exact(1, PAPER, "A tempered policy has a tempered DID: if a ∝ b^t, then q_{a/b} ∝ b^(t−1)")
def tempering(case: Case) -> Array:
    """For any exponent, also a negative one."""
    b, t = case.reference, case.position
    return off(did(log_softmax(t * b), b), log_softmax((t - 1) * b), b)


@exact(1, PAPER, "The DID's entropy is between 0 and log N")
def entropy_range(case: Case) -> Array:
    """By how much the entropy lies outside this range."""
    h = did_entropy(case.target, case.reference)
    return largest(jnp.maximum(0, -h), jnp.maximum(0, h - jnp.log(case.size)))


@exact(1, OURS, "H(q) = log Σ(a/b) − Σ q log(a/b)")
def entropy_from_ratios(case: Case) -> Array:
    """The identity that importance sampling estimates."""
    ratio = case.target - case.reference
    q = log_softmax(ratio)
    return off(entropy(q), logsumexp(ratio) - jnp.sum(jnp.exp(q) * ratio), ratio)

"""Functions of distributions: entropy, divergences and the Differential Information Distribution.

A *distribution* is an array of log-probabilities `[*batch, sequences]`, normalised over its last axis.
Batch axes broadcast. Everything is in nats and costs O(sequences) per distribution. Every function
raises `ValueError` for an argument that is NaN or not normalised, and for shapes that do not fit.

`π(y) = 0` is the log-probability `-inf`. Measures allow it, with the usual limits (`0 log 0 = 0`,
`KL = ∞` where the support is not covered); what divides by a probability asks for full support.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, Real

from didsim import _checks, _log_space

LogProbs = Float[Array, "*batch sequences"]
LogProbsLike = Float[ArrayLike, "*#batch sequences"] | list[Any]


def expectation(
    log_probs: LogProbsLike, values: Float[ArrayLike, "*#batch sequences"]
) -> Float[Array, "*batch"]:
    """The expectation `Σ_y π(y) f(y)`, where a sequence of probability zero counts for nothing.

    >>> float(expectation(jnp.log(jnp.array([0.25, 0.75])), jnp.array([4.0, 8.0])))
    7.0
    """
    log_probs = _checks.distribution("log_probs", log_probs)
    values = _checks.float_array("values", values)
    if _checks.known(values) and np.isnan(np.asarray(values)).any():
        raise ValueError("`values` must not be NaN; it is somewhere")
    _checks.same_sequences(log_probs=log_probs, values=values)
    return _expectation(log_probs, values)


def _expectation(
    log_probs: Float[Array, "*#batch sequences"], values: Float[Array, "*#batch sequences"]
) -> Float[Array, "*batch"]:
    return jnp.sum(jnp.exp(log_probs) * jnp.where(jnp.isneginf(log_probs), 0, values), axis=-1)


def entropy(p: LogProbsLike) -> Float[Array, "*batch"]:
    """Shannon entropy `H(p) = −Σ_y p(y) log p(y)`, from 0 to `log N` nats.

    >>> round(float(entropy(jnp.log(jnp.full(8, 1 / 8)))), 4)  # log 8
    2.0794
    """
    p = _checks.distribution("p", p)
    return -_expectation(p, p)


def kl(p: LogProbsLike, q: LogProbsLike) -> Float[Array, "*batch"]:
    """Kullback–Leibler divergence `KL(p ‖ q) = Σ_y p(y) log(p(y) / q(y))` in nats.

    Summed as `Σ_y p(y) (e^(−δ) − 1 + δ)` with `δ = log p(y) − log q(y)`: the same, since both sum to one.
    No term is negative, and an error in the normalisation of either enters only to second order, so
    that divergences far below machine epsilon keep their leading digits. Infinite where `q(y) = 0 < p(y)`.

    >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    >>> round(float(kl(p, q)), 6)
    0.143841
    """
    p, q = _checks.distribution("p", p), _checks.distribution("q", q)
    _checks.same_sequences(p=p, q=q)
    return jnp.sum(_kl_terms(p, q), axis=-1)


def _kl_terms(
    p: Float[Array, "*#batch sequences"], q: Float[Array, "*#batch sequences"]
) -> Float[Array, "*batch sequences"]:
    p, q = jnp.broadcast_arrays(p, q)
    absent, uncovered = jnp.isneginf(p), jnp.isneginf(q)
    # Arguments that would make infinities are replaced, so that derivatives stay finite too.
    ratio = jnp.where(absent | uncovered, 0, p) - jnp.where(absent | uncovered, 0, q)
    near = ratio > -1
    small = jnp.expm1(-jnp.where(near, ratio, 0)) + jnp.where(near, ratio, 0)
    terms = jnp.where(
        near, jnp.exp(p) * small, jnp.exp(q) - jnp.exp(p) + jnp.exp(p) * jnp.where(near, 0, ratio)
    )
    return jnp.where(absent, jnp.exp(q), jnp.where(uncovered, jnp.inf, terms))


def js(p: LogProbsLike, q: LogProbsLike) -> Float[Array, "*batch"]:
    """Jensen–Shannon divergence, from 0 to `log 2` nats.

    `JS(p, q) = KL(p ‖ m)/2 + KL(q ‖ m)/2` with `m = (p + q)/2`. Symmetric in its arguments; accurate for
    distributions that nearly agree, as `kl` is.

    >>> p, q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.0, 1.0]))
    >>> round(float(js(p, q)), 6)  # log 2
    0.693147
    """
    p, q = _checks.distribution("p", p), _checks.distribution("q", q)
    _checks.same_sequences(p=p, q=q)
    p, q = jnp.broadcast_arrays(p, q)
    one_sided = jnp.isneginf(p) | jnp.isneginf(q)
    difference = jnp.where(one_sided, 0, p) - jnp.where(one_sided, 0, q)
    both = jnp.exp(p) * _log_over_mean(difference) + jnp.exp(q) * _log_over_mean(-difference)
    return jnp.sum(jnp.where(one_sided, (jnp.exp(p) + jnp.exp(q)) * jnp.log(2.0), both), -1) / 2


def _log_over_mean(difference: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(2 / (1 + e^−d))`: how far `p` stands above the mean of `p` and `q`, with `d = log p − log q`."""
    size = jnp.abs(difference)
    # log((1 + e^−d)/2), accurate near d = 0 and without overflow far from it.
    of_size = jnp.log1p(jnp.expm1(-size) / 2)
    return jnp.where(difference >= 0, -of_size, -of_size - size)


def total_variation(p: LogProbsLike, q: LogProbsLike) -> Float[Array, "*batch"]:
    """Total variation distance `Σ_y |p(y) − q(y)| / 2`, from 0 to 1.

    >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    >>> round(float(total_variation(p, q)), 6)
    0.25
    """
    p, q = _checks.distribution("p", p), _checks.distribution("q", q)
    _checks.same_sequences(p=p, q=q)
    return jnp.sum(jnp.abs(jnp.exp(p) - jnp.exp(q)), axis=-1) / 2


def did(policy: LogProbsLike, reference: LogProbsLike) -> LogProbs:
    """The Differential Information Distribution (DID) of an update from `reference` to `policy`.

        q(y) = (policy(y) / reference(y)) / Σ_y' policy(y') / reference(y')

    It is the posterior over sequences, from a uniform prior, given evidence X with
    `P(X | y) ∝ policy(y) / reference(y)`: the evidence that turns `reference` into `policy` by Bayes' rule.
    Source: the paper (arXiv 2505.23761).

    Returns:
        log q, normalised.

    Raises:
        ValueError: an argument is not normalised, or gives a sequence probability zero.

    >>> reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    >>> bool(jnp.allclose(did(reference, reference), -jnp.log(3)))  # no update: uniform
    True
    """
    policy = _checks.distribution("policy", policy, full_support=True)
    reference = _checks.distribution("reference", reference, full_support=True)
    _checks.same_sequences(policy=policy, reference=reference)
    return log_softmax(policy - reference, axis=-1)


def did_entropy(policy: LogProbsLike, reference: LogProbsLike) -> Float[Array, "*batch"]:
    """Entropy of the DID, from 0 to `log N` nats: how widely the information of an update is spread.

    `log N`, the maximum, if and only if nothing was learned (`policy = reference`). Raises as `did` does.

    >>> reference = jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(did_entropy(reference, reference)), 6)  # log 2
    0.693147
    """
    return entropy(did(policy, reference))


def bayes_update(reference: LogProbsLike, log_q: Float[ArrayLike, "*#batch sequences"]) -> LogProbs:
    """The posterior `π(y) ∝ reference(y) q(y)` of evidence whose likelihood is proportional to `q`.

    The inverse of `did` in its first argument: `bayes_update(b, did(a, b)) = a`.

    Args:
        reference: the prior.
        log_q: log-likelihood of the evidence for each sequence, up to a constant; `-inf` rules one out.

    Raises:
        ValueError: `reference` is not normalised, or `log_q` has a NaN, `+inf`, or rules all out.

    >>> update = bayes_update(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.3])))
    >>> jnp.exp(update).tolist()
    [0.75, 0.25]
    """
    reference = _checks.distribution("reference", reference)
    log_q = _checks.float_array("log_q", log_q)
    _checks.same_sequences(reference=reference, log_q=log_q)
    posterior = reference + log_q
    if _checks.known(posterior):
        if jnp.isnan(posterior).any() or jnp.isposinf(posterior).any():
            raise ValueError("`log_q` must be below infinity and not NaN; it is not everywhere")
        if jnp.isneginf(posterior).all(axis=-1).any():
            raise ValueError("`log_q` must leave a sequence that `reference` allows; it rules all out")
    return log_softmax(posterior, axis=-1)


def geodesic(
    reference: LogProbsLike, log_q: Float[ArrayLike, "*#batch sequences"], s: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """The policy at `s` on the geodesic through `reference` in the direction `q`: `π_s ∝ reference · q^s`.

    `s = 0` is the reference and `s = 1` the Bayes update. With `q` the DID of a target, the target is at 1
    and the optimal rejected-sampling distribution at `−β`.

    Args:
        reference: the policy at 0.
        log_q: finite, up to a constant.
        s: position; an array adds to the batch axes.

    Raises:
        ValueError: `reference` is not normalised, or `log_q` or `s` is not finite.

    >>> reference = jnp.log(jnp.array([0.5, 0.5]))
    >>> jnp.exp(geodesic(reference, jnp.log(jnp.array([0.2, 0.8])), 0.5)).tolist()
    [0.3333, 0.6667]
    """
    reference = _checks.distribution("reference", reference)
    log_q = _checks.finite("log_q", log_q)
    _checks.same_sequences(reference=reference, log_q=log_q)
    position = _checks.number("s", s, beside=reference)
    _checks.broadcast(reference=reference.shape[:-1], log_q=log_q.shape[:-1], s=position.shape)
    return _log_space.tilted(reference, log_q, position)

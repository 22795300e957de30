"""Functions of distributions: entropy, divergences and the Differential Information Distribution.

A *distribution* is an array of log-probabilities `[*batch, sequences]`, normalised over its last axis.
Batch axes broadcast. Entropies and divergences are in nats. Every function costs O(sequences) for each
distribution. Every function raises `ValueError` for an argument that is NaN or not normalised, and for shapes
that do not fit.

A probability of zero is the log-probability `-inf`. Entropies and divergences allow it, with the usual
limits: `0 log 0 = 0`, and `KL(p ‖ q) = ∞` if `q(y) = 0 < p(y)` for some `y`. Functions that divide by a
probability need full support: no probability is zero.
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
    """The expectation `Σ_y π(y) f(y)`. A term with `π(y) = 0` is zero, even if `f(y)` is infinite.

    Examples:
        >>> float(expectation(jnp.log(jnp.array([0.25, 0.75])), jnp.array([4.0, 8.0])))
        7.0
    """
    log_probs = _checks.distribution("log_probs", log_probs)
    values = _checks.float_array("values", values)
    if _checks.known(values) and np.isnan(np.asarray(values)).any():
        raise ValueError("`values` must not be NaN; got NaN for at least one sequence")
    _checks.same_sequences(log_probs=log_probs, values=values)
    return _expectation(log_probs, values)


def _expectation(
    log_probs: Float[Array, "*#batch sequences"], values: Float[Array, "*#batch sequences"]
) -> Float[Array, "*batch"]:
    return jnp.sum(jnp.exp(log_probs) * jnp.where(jnp.isneginf(log_probs), 0, values), axis=-1)


def entropy(p: LogProbsLike) -> Float[Array, "*batch"]:
    """Shannon entropy `H(p) = −Σ_y p(y) log p(y)`, from 0 to `log N` nats.

    Examples:
        >>> round(float(entropy(jnp.log(jnp.full(8, 1 / 8)))), 4)  # log 8
        2.0794
    """
    p = _checks.distribution("p", p)
    return -_expectation(p, p)


def kl(p: LogProbsLike, q: LogProbsLike) -> Float[Array, "*batch"]:
    """Kullback–Leibler divergence `KL(p ‖ q) = Σ_y p(y) log(p(y) / q(y))` in nats.

    It is computed as `Σ_y p(y) (e^(−δ) − 1 + δ)` with `δ = log p(y) − log q(y)`. This has the same value,
    since `p` and `q` sum to one. Here no term is negative, and an error in the normalisation of `p` or `q`
    enters only to second order. So even a divergence far below machine epsilon has correct leading digits.
    The result is infinite if `q(y) = 0 < p(y)` for some `y`.

    Examples:
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

    `JS(p, q) = KL(p ‖ m)/2 + KL(q ‖ m)/2` with `m = (p + q)/2`. It is symmetric in its arguments. Like `kl`,
    it is accurate for distributions that nearly agree.

    Examples:
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
    """`log(2 / (1 + e^−d))`. With `d = log p − log q` this is `log(p/m)`, where `m = (p + q)/2`."""
    size = jnp.abs(difference)
    # log((1 + e^−d)/2), accurate near d = 0 and without overflow far from it.
    of_size = jnp.log1p(jnp.expm1(-size) / 2)
    return jnp.where(difference >= 0, -of_size, -of_size - size)


def total_variation(p: LogProbsLike, q: LogProbsLike) -> Float[Array, "*batch"]:
    """Total variation distance `Σ_y |p(y) − q(y)| / 2`, from 0 to 1.

    Examples:
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

    Let X be evidence with likelihood `P(X | y) ∝ policy(y) / reference(y)`. By Bayes' rule, this evidence
    turns the prior `reference` into the posterior `policy`. The DID is the posterior that the same evidence
    gives for a uniform prior. Source: the paper (arXiv 2505.23761).

    Returns:
        `log q`, normalised.

    Raises:
        ValueError: an argument is not normalised, or gives some sequence probability zero.

    Examples:
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

    It has its maximum `log N` if and only if nothing was learned (`policy = reference`). It raises
    `ValueError` in the same cases as `did`.

    Examples:
        >>> reference = jnp.log(jnp.array([0.5, 0.5]))
        >>> round(float(did_entropy(reference, reference)), 6)  # log 2
        0.693147
    """
    return entropy(did(policy, reference))


def bayes_update(reference: LogProbsLike, log_q: Float[ArrayLike, "*#batch sequences"]) -> LogProbs:
    """The posterior `π(y) ∝ reference(y) q(y)`, given evidence whose likelihood is proportional to `q`.

    It undoes `did`: `bayes_update(b, did(a, b)) = a`.

    Args:
        reference: the prior.
        log_q: log-likelihood of the evidence for each sequence, up to a constant. `-inf` excludes a sequence.

    Raises:
        ValueError: `reference` is not normalised, `log_q` has a NaN or `+inf`, or no sequence remains that
            both `reference` and `log_q` allow.

    Examples:
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
            raise ValueError("`log_q` must be below infinity and not NaN; got NaN or infinity at least once")
        if jnp.isneginf(posterior).all(axis=-1).any():
            raise ValueError(
                "`log_q` must leave a sequence that `reference` allows; got -inf for all of them"
            )
    return log_softmax(posterior, axis=-1)


def geodesic(
    reference: LogProbsLike, log_q: Float[ArrayLike, "*#batch sequences"], s: Real[ArrayLike, "*#batch"]
) -> LogProbs:
    """The policy at `s` on the geodesic through `reference` in the direction `q`: `π_s ∝ reference · q^s`.

    `s = 0` is the reference and `s = 1` is the Bayes update by `q`. If `q` is the DID from the reference to a
    target, then `s = 1` is the target, and `s = −β` is the optimal rejected-sampling distribution.

    Args:
        reference: the policy at `s = 0`.
        log_q: the log of `q` up to a constant, finite.
        s: position on the geodesic. The axes of an array are batch axes.

    Raises:
        ValueError: `reference` is not normalised, or `log_q` or `s` is not finite.

    Examples:
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

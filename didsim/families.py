"""Functions that make distributions: random distributions, and transformations of given ones.

Random distributions take a typed random key. An array of keys gives one distribution for each key; the axes
of the array are batch axes. All functions return normalised log-probabilities `[*batch, sequences]`. The cost
is O(sequences) for each distribution, unless stated otherwise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, Key, Real

from didsim import _checks, _log_space
from didsim._memory import check_fits, fitting_int
from didsim.information import LogProbs, LogProbsLike
from didsim.spaces import SequenceSpace

_BYTES = 16  # of a sequence: its draw and its log-probability


def normal_logits(key: Key[Array, "*batch"], size: int, scale: Real[ArrayLike, ""] = 1.0) -> LogProbs:
    """Softmax of independent normal logits: `π(y) ∝ exp(scale · z_y)`, `z_y ~ N(0, 1)`.

    Args:
        key: random key, or an array of them.
        size: number of sequences.
        scale: standard deviation of the logits; 0 is the uniform distribution.

    Raises:
        ValueError: `size` is below 1 or more than memory can hold, or `scale` is negative or not finite.
    """
    size = fitting_int("size", size, _BYTES)
    scale = _checks.single("scale", _checks.non_negative("scale", scale))
    return _per_key(key, lambda one: log_softmax(scale * jax.random.normal(one, (size,))))


def dirichlet(key: Key[Array, "*batch"], size: int, concentration: Real[ArrayLike, ""]) -> LogProbs:
    """A draw from the symmetric Dirichlet distribution, in log space, so that no probability underflows.

    Args:
        key: random key, or an array of them.
        size: number of sequences.
        concentration: 1 draws uniformly from the simplex. Smaller values give sparser distributions, larger
            values flatter ones.

    Raises:
        ValueError: `size` is below 1 or more than memory can hold, or `concentration` is not positive and
            finite.
    """
    size = fitting_int("size", size, _BYTES)
    concentration = _checks.single("concentration", _checks.positive("concentration", concentration))
    return _per_key(key, lambda one: log_softmax(jax.random.loggamma(one, concentration, (size,))))


def zipf(size: int, exponent: Real[ArrayLike, ""], key: Key[Array, "*batch"] | None = None) -> LogProbs:
    """Zipf's law `π(k) ∝ k^(−exponent)` over ranks `k = 1..size`.

    Without a key, sequences are in the order of their ranks. With a key, they are shuffled.

    Raises:
        ValueError: `size` is below 1 or more than memory can hold, or `exponent` is not finite.

    Examples:
        >>> jnp.exp(zipf(3, 1.0)).tolist()
        [0.5455, 0.2727, 0.1818]
    """
    size = fitting_int("size", size, _BYTES)
    exponent = _checks.single("exponent", _checks.number("exponent", exponent))
    ranked = log_softmax(-exponent * jnp.log(jnp.arange(1, size + 1)))
    if key is None:
        return ranked
    return _per_key(key, lambda one: jax.random.permutation(one, ranked))


def markov(key: Key[Array, "*batch"], space: SequenceSpace, scale: Real[ArrayLike, ""] = 1.0) -> LogProbs:
    """The distribution of sequences from a random first-order Markov chain. O(size of the space).

    The logits of the first token, and for each token the logits of the token after it, are independent draws
    from `N(0, scale²)`.

    Raises:
        ValueError: `space` is not a `SequenceSpace`, its transitions are more than memory can hold, or
            `scale` is negative or not finite.
    """
    _checks.instance("space", space, SequenceSpace, "a SequenceSpace")
    scale = _checks.single("scale", _checks.non_negative("scale", scale))
    vocab, continuing = space.vocab_size, space.num_continuing
    check_fits(f"`space`: a table of {vocab:,} x {vocab:,} transitions", _BYTES * vocab**2)

    def one_chain(one: Key[Array, ""]) -> LogProbs:
        logits = scale * jax.random.normal(one, (vocab + 1, vocab))
        first, successors = logits[:1], logits[1 : 1 + continuing]
        # The last token varies fastest within a level of the prefix tree.
        levels = [first] + [
            jnp.tile(successors, (continuing ** (level - 1), 1)) for level in range(1, space.max_length)
        ]
        return space.log_probs(log_softmax(jnp.concatenate(levels), axis=-1))

    return _per_key(key, one_chain)


def temper(p: LogProbsLike, exponent: Real[ArrayLike, "*#batch"]) -> LogProbs:
    """The tempered distribution `∝ p^exponent`.

    An exponent above 1 sharpens `p`, and one between 0 and 1 flattens it. A negative one reverses the order.

    Raises:
        ValueError: `p` is not normalised or has a zero, or `exponent` is not finite.

    Examples:
        >>> jnp.exp(temper(jnp.log(jnp.array([0.25, 0.75])), 2.0)).tolist()
        [0.1, 0.9]
    """
    p = _checks.distribution("p", p, full_support=True)
    exponent = _checks.number("exponent", exponent, beside=p)
    _checks.broadcast(p=p.shape[:-1], exponent=exponent.shape)
    return _log_space.tilted(jnp.zeros_like(p), p, exponent)


def mixture(p: LogProbsLike, q: LogProbsLike, weight: Real[ArrayLike, "*#batch"]) -> LogProbs:
    """The mixture `weight · p + (1 − weight) · q`.

    Raises:
        ValueError: `p` or `q` is not normalised, their shapes do not fit, or `weight` is not in [0, 1].

    Examples:
        >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.1, 0.9]))
        >>> jnp.exp(mixture(p, q, 0.25)).tolist()
        [0.2, 0.8]
    """
    p, q = _checks.distribution("p", p), _checks.distribution("q", q)
    _checks.same_sequences(p=p, q=q)
    weight = _checks.within("weight", weight, 0, 1)
    _checks.broadcast(p=p.shape[:-1], q=q.shape[:-1], weight=weight.shape)
    weight = weight[..., None]
    p, q, weight = jnp.broadcast_arrays(p, q, weight)
    neither = jnp.isneginf(p) & jnp.isneginf(q)
    top = jnp.where(neither, 0, jnp.maximum(p, q))
    share = weight * jnp.exp(p - top) + (1 - weight) * jnp.exp(q - top)
    # The share is zero if the only distribution of positive weight is zero here, or far below the other.
    lost = share == 0
    mixed = top + jnp.log(jnp.where(lost, 1, share))
    return jnp.where(lost, jnp.where(weight == 0, q, p), mixed)


def best_of_n(
    p: LogProbsLike, score: Float[ArrayLike, "*#batch sequences"], n: Real[ArrayLike, ""]
) -> LogProbs:
    """The distribution of the highest-scoring of `n` independent draws from `p`, in closed form.

    Let `F(s) = P(score ≤ s)` and `G(s) = P(score = s)` for one draw from `p`. The best of `n` draws has score
    `s` with probability `F(s)^n − (F(s) − G(s))^n`. Sequences with the same score share this probability in
    proportion to `p`. The computation is in log space, so tiny probabilities stay accurate. It sorts the
    scores, in O(N log N) time.

    Args:
        p: the distribution of one draw, of full support.
        score: the score of each sequence, finite.
        n: number of draws, at least 1; `n = 1` gives `p`. It need not be an integer: the formula is used as
            it stands.

    Raises:
        ValueError: `p` is not normalised or has a zero, `score` is not finite, or `n` is below 1.

    Examples:
        >>> p = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        >>> jnp.exp(best_of_n(p, jnp.array([0.0, 1.0, 2.0]), 2)).tolist()
        [0.25, 0.39, 0.36]
    """
    p = _checks.distribution("p", p, full_support=True)
    score = _checks.finite("score", score)
    _checks.same_sequences(p=p, score=score)
    draws = _checks.single("n", _checks.at_least_one("n", n, beside=p))
    return jnp.vectorize(lambda p, score: _best_of(p, score, draws), signature="(n),(n)->(n)")(p, score)


def worst_of_n(
    p: LogProbsLike, score: Float[ArrayLike, "*#batch sequences"], n: Real[ArrayLike, ""]
) -> LogProbs:
    """The distribution of the lowest-scoring of `n` independent draws from `p`.

    This is `best_of_n` with negated scores.

    Examples:
        >>> p = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        >>> jnp.exp(worst_of_n(p, jnp.array([0.0, 1.0, 2.0]), 2)).tolist()
        [0.75, 0.21, 0.04]
    """
    return best_of_n(p, -_checks.finite("score", score), n)


def _best_of(p: Float[Array, " n"], score: Float[Array, " n"], n: Float[Array, ""]) -> Float[Array, " n"]:
    size = p.shape[-1]
    order = jnp.argsort(score)
    sorted_p, sorted_score = p[order], score[order]
    below = jax.lax.cumlogsumexp(sorted_p)
    # Equal scores form a group. Each member needs the mass of its group, and the mass up to the group's end.
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, int), jnp.diff(sorted_score) > 0]))
    up_to = jax.ops.segment_max(below, group, size)[group]
    top = jax.ops.segment_max(sorted_p, group, size)[group]
    mass = top + jnp.log(jax.ops.segment_sum(jnp.exp(sorted_p - top), group, size))[group]
    # log(1 − (1 − G/F)^n) = log(1 − exp(−z)) with z = −n log(1 − G/F), itself held as a logarithm.
    log_z = jnp.log(n) + _log_space.log_minus_log1m(jnp.minimum(mass - up_to, 0))
    best = n * up_to + _log_space.log1m_exp_minus(log_z) + sorted_p - mass
    return log_softmax(jnp.zeros_like(p).at[order].set(best))


def _per_key(key: Key[Array, "*batch"], make: Callable[[Array], Array]) -> LogProbs:
    """`make(key)` for every key of an array; the axes of the array come first."""
    for _ in range(_checks.key("key", key).ndim):
        make = jax.vmap(make)
    return make(key)

"""Terms that depend on the single tokens of a pair: LD-DPO and WPO.

A sequence's log-probability is a sum over its tokens. These terms need parts of the sum, so they need the
space: which tokens a sequence has, and which sequences share its beginning. Without a space every sequence
counts as one token.
"""

import functools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int

from didsim import _checks
from didsim._differences import difference
from didsim.objectives.rewards import LogRatio, Scalar, given_reference, log_ratio_of
from didsim.objectives.terms import Population, Sequences, Term, WithTokens, check_parts
from didsim.preferences.problem import Listed, at_indices
from didsim.spaces import SequenceSpace


class TokenTerm(Term):
    """A loss of a pair that depends on its single tokens.

    Attributes:
        space: the space of all sequences; None if every sequence is one token.
    """

    reward: LogRatio
    space: SequenceSpace | None = eqx.field(static=True, kw_only=True)

    def __post_init__(self) -> None:
        check_parts(self)
        _checks.instance("reward", self.reward, LogRatio, "a LogRatio")
        if self.space is not None:
            _checks.instance("space", self.space, SequenceSpace, "a SequenceSpace, or None")

    @property
    def needs_tokens(self) -> bool:
        return True

    def _space(self, sequences: Sequences) -> SequenceSpace:
        """The space of these sequences.

        Raises:
            ValueError: there are lengths, but no space, or the space is of another size.
        """
        size = sequences.logps.shape[-1]
        if self.space is None and sequences.lengths is not None:
            raise ValueError(
                "`space` must be given to this objective: lengths do not say which tokens two sequences "
                "share; got None"
            )
        space = SequenceSpace(size, 1) if self.space is None else self.space
        if space.size != size:
            raise ValueError(f"`space` must be of {size} sequences; got one of {space.size}")
        return space

    def _pairs(self, sequences: Sequences, over: Population) -> tuple[Listed, Sequences, Sequences]:
        """The pairs, with the chosen and the rejected sequence of each."""
        pairs = over.problem.listed(sequences.logps.shape[-1])
        reference = given_reference(sequences.ref_logps)
        chosen, rejected = (
            Sequences(at_indices(sequences.logps, side), at_indices(reference, side), None)
            for side in (pairs.winners, pairs.losers)
        )
        return pairs, chosen, rejected


class SharedLength(TokenTerm):
    """`weight · kernel(ĥ(y_w) − ĥ(y_l))`, with `ĥ = beta · [s + alpha · (t − s)]`.

    `t` is the log-ratio of a sequence. `s` is that of its first `min(|y_w|, |y_l|)` tokens.
    """

    alpha: Scalar = eqx.field(kw_only=True, converter=partial(_checks.within, "alpha", low=0, high=1))

    def of_pairs(self, chosen: WithTokens, rejected: WithTokens, baseline: Array | None) -> Array:
        """The loss of each pair. `tokens` are `s(y_w)` and `s(y_l)`."""

        def reward(one: WithTokens) -> Array:
            tail = log_ratio_of(one.logps, one.ref_logps) - one.tokens
            return self.reward.beta * (one.tokens + self.alpha * tail)

        return self.kernel(reward(chosen) - reward(rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        """The expected loss. O(N²) time and memory for a population, O(N + P) for P pairs."""
        tree = self._space(space)
        pairs, chosen, rejected = self._pairs(space, over)
        ratios = token_log_probs(tree, space.logps) - token_log_probs(tree, given_reference(space.ref_logps))
        begun = jnp.cumsum(ratios, axis=-1).reshape(*ratios.shape[:-2], -1)
        lengths = jnp.asarray(tree.lengths)
        shared = jnp.minimum(lengths[pairs.winners], lengths[pairs.losers])
        of_chosen, of_rejected = (
            WithTokens(*one, at_indices(begun, side * tree.max_length + shared - 1))
            for one, side in ((chosen, pairs.winners), (rejected, pairs.losers))
        )
        losses = self.of_pairs(of_chosen, of_rejected, None)
        return jnp.sum(pairs.weights.astype(losses.dtype) * losses, axis=-1)


class PolicyWeighted(TokenTerm):
    """`weight · min(1, w(y_w) · w(y_l)) · kernel(h(y_w) − h(y_l))`. The weights are held fixed.

    `log w(y)` is the mean over the tokens of `y` of `log π(y_t | y_<t) − log Σ_v π(v | y_<t)²`.
    """

    @property
    def has_baseline(self) -> bool:
        """True: the weights depend on the policy, and no gradient passes through them."""
        return True

    def of_pairs(self, chosen: WithTokens, rejected: WithTokens, baseline: Array | None) -> Array:
        """The loss of each pair. `tokens` are `log w(y_w)` and `log w(y_l)`."""
        log_weight = jax.lax.stop_gradient(jnp.minimum(0, chosen.tokens + rejected.tokens))
        of_chosen, of_rejected = (self.reward(*one.sequences) for one in (chosen, rejected))
        return jnp.exp(log_weight) * self.kernel(difference(of_chosen, of_rejected))

    def expected(self, space: Sequences, over: Population) -> Array:
        """The expected loss. O(N²) time and memory for a population, O(N + P) for P pairs."""
        tree = self._space(space)
        pairs, chosen, rejected = self._pairs(space, over)
        log_weights = mean_token_weight(tree, over.held.logps)
        of_chosen, of_rejected = (
            WithTokens(*one, at_indices(log_weights, side))
            for one, side in ((chosen, pairs.winners), (rejected, pairs.losers))
        )
        losses = self.of_pairs(of_chosen, of_rejected, None)
        return jnp.sum(pairs.weights.astype(losses.dtype) * losses, axis=-1)


def token_log_probs(space: SequenceSpace, log_probs: Array) -> Float[Array, "*batch sequences max_length"]:
    """`log π(y_t | y_<t)` for every token of every sequence; 0 after its end. O(N · max_length)."""
    table = space.next_token_log_probs(log_probs)
    entries, tokens, inside = _places(space)
    return jnp.where(inside, table[..., entries, tokens], 0)


def mean_token_weight(space: SequenceSpace, log_probs: Array) -> Float[Array, "*batch sequences"]:
    """The mean over tokens of `log π(y_t | y_<t) − log Σ_v π(v | y_<t)²`. O(N · max_length)."""
    table = space.next_token_log_probs(log_probs)
    collisions = logsumexp(2 * table, axis=-1)
    entries, tokens, inside = _places(space)
    terms = jnp.where(inside, table[..., entries, tokens] - collisions[..., entries], 0)
    return jnp.sum(terms, axis=-1) / jnp.asarray(space.lengths, table.dtype)


@functools.lru_cache(maxsize=8)
def _places(
    space: SequenceSpace,
) -> tuple[Int[np.ndarray, "sequences max_length"], Int[np.ndarray, "sequences max_length"], np.ndarray]:
    """The prefix before each token, the token, and whether the sequence has that many tokens."""
    rows, inside = space.sequences, space.sequences >= 0
    entries = np.zeros_like(rows)
    for place in range(space.max_length):
        has = inside[:, place]
        entries[has, place] = space.prefix_index(rows[has, :place])
    return entries, np.where(inside, rows, 0), inside

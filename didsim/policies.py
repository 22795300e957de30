"""Policies: trained parameters that give log-probabilities over a whole space of sequences.

A policy is any `equinox.Module` with `log_probs() -> Float[Array, "*batch sequences"]`. All its
floating-point arrays are trained; their batch axes come first. To keep some of them fixed, define
`trainable()`.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, PyTree

from didsim import _checks
from didsim.information import LogProbs, LogProbsLike
from didsim.spaces import SequenceSpace


@runtime_checkable
class HasLogProbs(Protocol):
    """A policy of any class."""

    def log_probs(self) -> LogProbs:
        """Log-probabilities of every sequence, normalised."""


class Policy(eqx.Module):
    """A distribution over the sequences of a space, given by parameters.

    Attributes:
        has_linear_logits: log-probabilities are linear in the parameters, up to the normaliser of each
            prompt.
        holds_all: the parameters are free logits, one for each sequence, so they can represent every
            distribution of full support.
    """

    has_linear_logits: ClassVar[bool] = False
    holds_all: ClassVar[bool] = False

    @property
    def prompts(self) -> int:
        """The number of prompts whose responses are the sequences, side by side."""
        return 1

    @abstractmethod
    def log_probs(self) -> LogProbs:
        """Log-probabilities of every sequence, normalised."""

    def trainable(self) -> PyTree[bool]:
        """A tree with the structure of the policy, True for the arrays that training changes."""
        return jax.tree.map(eqx.is_inexact_array, self)


def partition(policy: HasLogProbs) -> tuple[PyTree, PyTree]:
    """Split a policy into its trained arrays and the rest.

    Raises:
        ValueError: `policy` is no module with `log_probs()`.
    """
    _checks.instance("policy", policy, HasLogProbs, "a module with log_probs()")
    if isinstance(policy, Policy):
        return eqx.partition(policy, policy.trainable())
    return eqx.partition(policy, eqx.is_inexact_array)


class EnergyBased(Policy):
    """Free logits over sequences: `π(y) ∝ exp(logits_y)`. O(size).

    It can represent every distribution of full support. `EnergyBased(reference)` equals `reference`, since
    log-probabilities are logits.

    Raises:
        ValueError: `logits` are not finite.

    Examples:
        >>> policy = EnergyBased(jnp.array([0.0, 1.0]))
        >>> jnp.exp(policy.log_probs()).tolist()
        [0.2689, 0.7311]
    """

    has_linear_logits: ClassVar[bool] = True
    holds_all: ClassVar[bool] = True

    logits: Float[Array, "*batch sequences"]

    def __init__(self, logits: Float[ArrayLike, "*batch sequences"]) -> None:
        self.logits = _checks.finite("logits", logits)

    def log_probs(self) -> LogProbs:
        """`log_softmax(logits)`."""
        return log_softmax(self.logits, axis=-1)


class Autoregressive(Policy):
    """A table of next-token logits for every prefix: `π(y) = Π_t softmax(logits[y_<t])(y_t)`.

    This is the tabular counterpart of a language model. It can represent every distribution of full support,
    but its gradient moves all sequences that share a prefix. Its log-probabilities over the whole space are
    computed exactly, in one O(size) pass down the prefix tree.

    With a `context` it is an n-gram model: the next token depends on the last `context` tokens alone. A
    longer prefix uses the row of its last `context` tokens. Such a model cannot represent every distribution.

    Args:
        logits: next-token logits, with one row for each of `space.prefixes`. With a context, there are rows
            only for the prefixes of at most `context` tokens, which come first in `space.prefixes`.
        space: the space of sequences.
        context: number of last tokens that the next token depends on, 0 or more. None stands for all tokens.

    Raises:
        ValueError: `logits` are not finite, or their last two axes are not `(number of rows,
            space.vocab_size)`, or `context` is negative or not an integer.

    Examples:
        >>> space = SequenceSpace(vocab_size=2, max_length=2)
        >>> policy = Autoregressive(jnp.zeros((space.num_prefixes, 2)), space)
        >>> jnp.exp(policy.log_probs()).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    logits: Float[Array, "*batch rows vocab"]
    space: SequenceSpace = eqx.field(static=True)
    context: int | None = eqx.field(static=True)

    def __init__(
        self,
        logits: Float[ArrayLike, "*batch rows vocab"],
        space: SequenceSpace,
        context: int | None = None,
    ) -> None:
        _checks.instance("space", space, SequenceSpace, "a SequenceSpace")
        if context is not None:
            context = _checks.integer("context", context, 0)
        self.logits = _checks.finite("logits", logits)
        self.space = space
        self.context = context
        # A context makes rows for the prefixes of a space of shorter sequences.
        longest = space.max_length if context is None else min(context + 1, space.max_length)
        rows = SequenceSpace(space.vocab_size, longest, space.eos).num_prefixes
        expected = (rows, space.vocab_size)
        if self.logits.shape[-2:] != expected:
            raise ValueError(
                f"`logits` must end in (rows, vocab_size) = {expected}; got shape {self.logits.shape}"
            )

    def _rows(self) -> np.ndarray:
        """For every prefix, the row of the table that it uses."""
        prefixes = self.space.prefixes
        if self.context is None or self.context >= prefixes.shape[-1]:
            return np.arange(len(prefixes))
        used = np.sum(prefixes >= 0, axis=-1, keepdims=True)
        start = np.maximum(used - self.context, 0)
        places = start + np.arange(self.context)
        last = np.take_along_axis(
            np.pad(prefixes, ((0, 0), (0, self.context)), constant_values=-1), places, -1
        )
        return np.asarray(self.space.prefix_index(last))

    @classmethod
    def from_log_probs(cls, log_probs: LogProbsLike, space: SequenceSpace) -> Self:
        """The policy that equals a given distribution of full support over `space`.

        Raises:
            ValueError: `log_probs` is not normalised, has a zero, or is not over `space`.
        """
        _checks.instance("space", space, SequenceSpace, "a SequenceSpace")
        return cls(space.next_token_log_probs(log_probs), space)

    def log_probs(self) -> LogProbs:
        return self.space.log_probs(log_softmax(self.logits, axis=-1)[..., self._rows(), :])

    def log_prob(self, tokens: Any) -> Float[Array, "*batch"]:
        """The log-probability of one sequence, token by token: `Σ_t log π(y_t | y_<t)`.

        A language model computes it in the same way. It takes O(length · (length + vocab_size)) time, as
        other sequences are not needed. No table of the space is made.

        Raises:
            ValueError: `tokens` is not one whole sequence of the space.
        """
        if np.ndim(self.space.index(tokens)) != 0:
            raise ValueError(f"`tokens` must be one sequence; got {tokens!r}")
        whole = [int(token) for token in np.asarray(tokens) if token >= 0]
        first = [0 if self.context is None else max(0, k - self.context) for k in range(len(whole))]
        rows = np.array([self.space.prefix_index(whole[start:k]) for k, start in enumerate(first)])
        chosen = log_softmax(self.logits[..., rows, :], axis=-1)
        return jnp.sum(chosen[..., jnp.arange(len(whole)), jnp.asarray(whole)], axis=-1)


class LogLinear(Policy):
    """Fixed features times trained weights: `π(y) ∝ exp(features_y · weights)`. O(size · features).

    With fewer features than sequences it cannot represent every target, in general.

    Features with an axis of prompts make a policy over the responses to all prompts, side by side, as
    `didsim.in_own_prompt` numbers them. Prompts share the weights, and each has the same probability:
    `π(x, y) = exp(features_xy · weights) / (prompts · Z_x)`.

    Args:
        features: finite, `[sequences, features]`, or `[prompts, sequences, features]`. All entries of a batch
            share them. They are not trained.
        weights: finite, one for each feature. They are trained.

    Raises:
        ValueError: an argument is not finite, or their numbers of features differ.

    Examples:
        >>> policy = LogLinear(features=jnp.array([[0.0], [1.0], [2.0]]), weights=jnp.array([0.5]))
        >>> jnp.exp(policy.log_probs()).tolist()
        [0.1863, 0.3072, 0.5065]
    """

    has_linear_logits: ClassVar[bool] = True

    features: Float[Array, "*prompts sequences features"]
    weights: Float[Array, "*batch features"]

    def __init__(
        self,
        features: Float[ArrayLike, "*prompts sequences features"],
        weights: Float[ArrayLike, "*batch features"],
    ) -> None:
        self.features = _checks.finite("features", features, min_ndim=2)
        self.weights = _checks.finite("weights", weights)
        if self.features.ndim not in (2, 3) or self.features.shape[-1] != self.weights.shape[-1]:
            raise ValueError(
                "`features` must be [sequences, features] or [prompts, sequences, features] with one column "
                "for each of `weights`; "
                f"got features of shape {self.features.shape} and weights of shape "
                f"{self.weights.shape}"
            )

    def log_probs(self) -> LogProbs:
        """`log_softmax(features @ weights)`, for each prompt."""
        # Accelerators would otherwise multiply in reduced precision.
        rows = self.features.reshape(-1, self.features.shape[-1])
        logits = jnp.matmul(self.weights, rows.T, precision="highest")
        if self.prompts == 1:
            return log_softmax(logits, axis=-1)
        of_prompts = log_softmax(logits.reshape(*logits.shape[:-1], self.prompts, -1), axis=-1)
        return of_prompts.reshape(logits.shape) - jnp.log(self.prompts)

    @property
    def prompts(self) -> int:
        return self.features.shape[0] if self.features.ndim == 3 else 1

    def trainable(self) -> PyTree[bool]:
        everything = super().trainable()
        return eqx.tree_at(lambda policy: policy.features, everything, False)

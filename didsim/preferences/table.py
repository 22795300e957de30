"""Tables of preferences between any two sequences, whether or not rewards explain them, and with ties."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jaxtyping import Array, ArrayLike, Float, Real

from didsim import _checks, _log_space
from didsim._checks import Shape
from didsim._memory import check_fits, fitting_int
from didsim.information import LogProbsLike

_ENTRY = 8  # bytes of a pair in a table
_ROW = 16  # bytes of a sequence by itself: its number, and its place in the cycle


class PreferenceTable(eqx.Module):
    """The probability that `i` wins against `j`, for any two sequences; the model of labels of a rater.

    `wins[i, j] = P(i ≻ j)`, so `wins[i, j] + wins[j, i] = 1`, and the diagonal is a half. No reward need
    explain the table: it may be intransitive, as in rock, paper, scissors. With `ties`, a comparison can also
    end in a tie, and `wins[i, j] + wins[j, i] + ties[i, j] = 1`. Sources: Azar et al. (arXiv 2310.12036) and
    Munos et al., "Nash learning from human feedback" (arXiv 2312.00886), for general preferences.

    `LabelledByTable` and `Online` take a table where labels come from it. Memory is O(N²).

    Args:
        wins: `P(i ≻ j)`, in [0, 1], `[*batch, sequences, sequences]`.
        ties: the probability of a tie, symmetric, of the same shape; by default there are none.

    Attributes:
        log_wins: `log P(i ≻ j)`.
        log_ties: the log-probability of a tie; None if there are none.

    Raises:
        ValueError: a table is not square, has an entry outside [0, 1], or a pair's outcomes do not add up
            to 1 to within the square root of machine epsilon.

    Examples:
        >>> cyclic = PreferenceTable(jnp.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]))
        >>> jnp.exp(cyclic.win_rates(jnp.log(jnp.full(3, 1 / 3)))).round(6).tolist()  # no sequence is better
        [0.5, 0.5, 0.5]
    """

    log_wins: Float[Array, "*batch sequences sequences"]
    log_ties: Float[Array, "*batch sequences sequences"] | None

    def __init__(
        self,
        wins: Float[ArrayLike, "*#batch sequences sequences"] | list[Any],
        ties: Float[ArrayLike, "*#batch sequences sequences"] | list[Any] | None = None,
    ) -> None:
        won = _probabilities("wins", wins)
        tied = None if ties is None else _probabilities("ties", ties)
        if tied is not None and tied.shape != won.shape:
            raise ValueError(f"`ties` must have the shape of `wins`, {won.shape}; got shape {tied.shape}")
        if _checks.known((won, tied)):
            _check_outcomes(np.asarray(won), None if tied is None else np.asarray(tied))
        self.log_wins = _log_space.log(won)
        self.log_ties = None if tied is None else _log_space.log(tied)

    @classmethod
    def rao_kupper(
        cls, reward: Float[ArrayLike, "*#batch sequences"], theta: Real[ArrayLike, "*#batch"] = 1.0
    ) -> "PreferenceTable":
        """The model of Rao and Kupper: Bradley–Terry with ties between sequences of similar reward.

            P(i ≻ j) = π_i / (π_i + θ π_j) = σ(r_i − r_j − log θ),    π = e^r
            P(tie)   = (θ² − 1) π_i π_j / [(π_i + θ π_j)(θ π_i + π_j)]
                     = (θ² − 1) σ(r_i − r_j − log θ) σ(r_j − r_i − log θ)

        `θ = 1` is Bradley–Terry, without ties. Two equal sequences tie with probability `(θ − 1)/(θ + 1)`.
        Source: Rao and Kupper, "Ties in paired-comparison experiments: a generalization of the Bradley–Terry
        model" (Journal of the American Statistical Association 62, 1967).

        Args:
            reward: `r`, finite, in nats, `[*batch, sequences]`.
            theta: `θ`, at least 1.

        Raises:
            ValueError: `reward` is not finite, `theta < 1`, or shapes do not fit.

        Examples:
            >>> table = PreferenceTable.rao_kupper(jnp.log(jnp.array([3.0, 1.0])), theta=2.0)
            >>> jnp.exp(table.log_wins).round(4).tolist(), round(float(jnp.exp(table.log_ties[0, 1])), 4)
            ([[0.3333, 0.6], [0.1429, 0.3333]], 0.2571)
        """
        reward = _checks.finite("reward", reward)
        theta = _checks.at_least_one("theta", theta, beside=reward)
        _checks.broadcast(reward=reward.shape[:-1], theta=theta.shape)
        alpha = jnp.log(theta).astype(reward.dtype)[..., None, None]
        won = log_sigmoid(reward[..., :, None] - reward[..., None, :] - alpha)
        tied = log_tie_factor(alpha) + won + jnp.swapaxes(won, -1, -2)
        return cls._of_logarithms(won, tied)

    @classmethod
    def bradley_terry(cls, reward: Float[ArrayLike, "*#batch sequences"]) -> "PreferenceTable":
        """The table that a reward explains: `P(i ≻ j) = σ(r_i − r_j)`, without ties.

        A batch of rewards is a batch of raters; `mixed` makes one table of them.

        Args:
            reward: `r`, finite, in nats, `[*batch, sequences]`.

        Raises:
            ValueError: `reward` is not finite.

        Examples:
            >>> table = PreferenceTable.bradley_terry(jnp.log(jnp.array([3.0, 1.0])))
            >>> jnp.exp(table.log_wins).round(4).tolist()
            [[0.5, 0.75], [0.25, 0.5]]
        """
        reward = _checks.finite("reward", reward)
        won = log_sigmoid(reward[..., :, None] - reward[..., None, :])
        return cls._of_logarithms(won, None)

    @classmethod
    def _of_logarithms(cls, log_wins: Array, log_ties: Array | None) -> "PreferenceTable":
        """A table whose logarithms are known: the exponential of an unlikely outcome would round to zero."""
        return eqx.tree_at(
            lambda table: (table.log_wins, table.log_ties),
            cls(jnp.full((1, 1), 0.5)),
            (log_wins, log_ties),
            is_leaf=lambda leaf: leaf is None,
        )

    @classmethod
    def cyclic(cls, size: int, win: Real[ArrayLike, "*batch"] = 0.9) -> "PreferenceTable":
        """A cycle of sequences, each of which beats those that follow it, like rock, paper, scissors.

        Sequence `i` wins with probability `win` against each of the `(size − 1) // 2` that follow it, and
        loses as often against those before it. If `size` is even, the one opposite is its equal. So every
        sequence wins as often as it loses, and no reward explains the table unless `win` is a half.

        Args:
            size: number of sequences.
            win: a probability, `[*batch]`.

        Raises:
            ValueError: `size` is below 1, or `win` is not in [0, 1].

        Examples:
            >>> jnp.exp(PreferenceTable.cyclic(3, 0.8).log_wins).round(6).tolist()
            [[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]
        """
        size = fitting_int("size", size, _ROW)
        check_fits(f"`size` = {size:,}: a table of all pairs", _ENTRY * size**2)
        win = _checks.within("win", win, 0, 1)[..., None, None]
        ahead = (np.arange(size) - np.arange(size)[:, None]) % size
        follows = (ahead > 0) & (ahead <= (size - 1) // 2)
        half = 0.5 * jnp.ones_like(win)
        return cls(jnp.where(follows, win, jnp.where(follows.T, 1 - win, half)))

    def mixed(self, weights: Float[ArrayLike, "*#batch raters"] | list[Any]) -> "PreferenceTable":
        """The table of a group of raters, each of whom has a table of their own: one of them labels a pair.

        `P(i ≻ j) = Σ_k weights_k P_k(i ≻ j)`, and the same for ties. The raters are the last batch axis of
        this table. Each of them may have a reward; the mixture has none, in general.

        Args:
            weights: how often each rater is asked, `[*batch, raters]`: probabilities that sum to one.

        Returns:
            A table of the shape `[*batch, sequences, sequences]`.

        Raises:
            ValueError: the table has no batch axis, `weights` has another number of raters, or `weights` are
                not probabilities.

        Examples:
            >>> raters = PreferenceTable.bradley_terry(jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]])))
            >>> jnp.exp(raters.mixed([0.5, 0.5]).log_wins).round(4).tolist()
            [[0.5, 0.625], [0.375, 0.5]]
        """
        if not self.batch_shape:
            raise ValueError(f"`self` must have a batch axis of raters; got shape {self.log_wins.shape}")
        weights = _checks.finite("weights", weights)
        if weights.shape[-1] != self.batch_shape[-1]:
            raise ValueError(
                f"`weights` must have one entry for each of {self.batch_shape[-1]} raters; got shape "
                f"{weights.shape}"
            )
        if _checks.known(weights):
            given = np.asarray(weights)
            if (given < 0).any() or (np.abs(given.sum(axis=-1) - 1) > _tolerance(given)).any():
                raise ValueError(f"`weights` must be probabilities that sum to one; got {given}")
        _checks.broadcast(self=self.batch_shape[:-1], weights=weights.shape[:-1])
        log_weights = _log_space.log(weights)[..., None, None]
        return jax.tree.map(lambda table: _log_space.logsumexp(log_weights + table, axis=-3), self)

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the table."""
        return self.log_wins.shape[:-2]

    @property
    def size(self) -> int:
        """The number of sequences."""
        return self.log_wins.shape[-1]

    def log_preferences(self) -> Float[Array, "*batch sequences sequences"]:
        """`log [P(i ≻ j) + P(tie)/2]`: a tie counts as half a win for either."""
        if self.log_ties is None:
            return self.log_wins
        return _log_space.logaddexp(self.log_wins, self.log_ties - jnp.log(2.0).astype(self.log_wins.dtype))

    def win_rates(self, log_probs: LogProbsLike) -> Float[Array, "*batch sequences"]:
        """`log Σ_j π(j) P(i ≻ j)`: how often each sequence beats one from `π`, ties counted half. O(N²).

        These are the labels `P(y ≻ π)` of self-play preference optimisation (arXiv 2405.00675).

        Raises:
            ValueError: `log_probs` is not normalised, or shapes do not fit.
        """
        log_probs = _checks.distribution("log_probs", log_probs)
        _checks.same_sequences(preferences=self.log_wins[..., 0], log_probs=log_probs)
        return _log_space.logsumexp(self.log_preferences() + log_probs[..., None, :])


def log_tie_factor(alpha: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(θ² − 1)` for `θ = e^alpha`; `−inf` at 0, with derivative 0 there."""
    some = alpha > 0
    alpha = jnp.where(some, alpha, 1)
    return jnp.where(some, 2 * alpha + jnp.log(-jnp.expm1(-2 * alpha)), -jnp.inf)


def reward_of_labels(reward: Any) -> Array:
    """The reward of labels, which must be finite, and not a table of preferences.

    Rewards matter only up to a constant, so a batch of rewards need never look like a table.
    """
    if isinstance(reward, PreferenceTable):
        raise ValueError("`reward` must be an array here; got a PreferenceTable. LabelledByTable takes it")
    array = _checks.finite("reward", reward)
    if array.ndim >= 2 and array.shape[-1] == array.shape[-2] > 1 and _checks.known(reward):
        given = np.asarray(reward)
        total = given + np.swapaxes(given, -1, -2)
        if ((given >= 0) & (given <= 1)).all() and np.abs(total - 1).max() <= _tolerance(given):
            raise ValueError(
                f"`reward` must be rewards; got a table of shape {given.shape} with [i, j] + [j, i] = 1, as "
                "preferences have. PreferenceTable(…) holds these. Rewards that look so by chance can be "
                "shifted by a constant"
            )
    return array


def check_ties(log_probs: Array, log_ties: Array) -> None:
    """Raise unless `log_ties` can be the part of a table of pairs that comes from ties."""
    if log_ties.shape != log_probs.shape:
        raise ValueError(
            f"`log_ties` must have the shape of `log_probs`, {log_probs.shape}; got shape {log_ties.shape}"
        )
    if _checks.known((log_probs, log_ties)):
        ties, whole = np.exp(np.asarray(log_ties)), np.exp(np.asarray(log_probs))
        error = float(np.sqrt(jnp.finfo(log_ties.dtype).eps))
        if not (np.abs(ties - np.swapaxes(ties, -1, -2)) <= error).all() or not (ties <= whole + error).all():
            raise ValueError("`log_ties` must be symmetric, and nowhere more than `log_probs`")


def _probabilities(name: str, value: Any) -> Array:
    array = _checks.finite(name, value, min_ndim=2)
    if array.shape[-1] != array.shape[-2]:
        raise ValueError(f"`{name}` must be square in its last two axes; got shape {array.shape}")
    if _checks.known(value):
        given = np.asarray(value)
        if (off := (given < 0) | (given > 1)).any():
            raise ValueError(f"`{name}` must be probabilities, from 0 to 1; got {given[off][0]}")
    return array


def _check_outcomes(wins: np.ndarray, ties: np.ndarray | None) -> None:
    """Raise unless the outcomes of each pair add up to 1."""
    total = wins + np.swapaxes(wins, -1, -2) + (0 if ties is None else ties)
    off = np.abs(total - 1) > _tolerance(wins)
    if off.any():
        where = tuple(int(k) for k in np.argwhere(off)[0])
        rule = (
            "[i, j] + [j, i] = 1, or `ties` the rest," if ties is None else "[i, j] + [j, i] + ties[i, j] = 1"
        )
        raise ValueError(f"`wins` must have {rule} for any two; got {total[where]:.6g} at index {where}")


def _tolerance(given: np.ndarray) -> float:
    return float(np.sqrt(jnp.finfo(given.dtype).eps))

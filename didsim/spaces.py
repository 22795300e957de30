"""A finite space of token sequences: enumeration, indices and the prefix tree."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, ArrayLike, Float, Int

from didsim import _checks
from didsim.information import LogProbs, LogProbsLike


@dataclass(frozen=True)
class SequenceSpace:
    """All token sequences of a vocabulary, up to a maximal length.

    Without `eos`, the space holds the `vocab_size ** max_length` sequences of exactly `max_length` tokens.

    With `eos`, the last token of the vocabulary (`eos_token`) ends a sequence. The space holds every sequence
    of at most `max_length` tokens that ends with this token, and every sequence of `max_length` tokens
    without it. The ending token counts in the length, as in a language model's completion. With
    `C = vocab_size - 1` other tokens, the number of sequences is

        C^0 + C^1 + … + C^(max_length - 2)  +  C^(max_length - 1) · vocab_size.

    Sequences are ordered by length, and sequences of one length lexicographically. In this order the tree of
    prefixes can be walked level by level with reshapes alone. A space is immutable and hashable. Its tables
    are NumPy arrays. Each is made on first use, in O(size · max_length) time and memory.

    Args:
        vocab_size: number of tokens, including the ending token.
        max_length: largest number of tokens of a sequence.
        eos: whether the last token of the vocabulary ends a sequence.

    Raises:
        ValueError: `vocab_size` or `max_length` is not a positive integer, `eos` is not a boolean, or there
            are more than `SequenceSpace.max_size` sequences (about 17 million).

    Examples:
        >>> space = SequenceSpace(vocab_size=3, max_length=2, eos=True)
        >>> space.size
        7
        >>> [space.decode(i) for i in range(space.size)]
        [(2,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        >>> space.index((1, 2))
        6
    """

    vocab_size: int
    max_length: int
    eos: bool = False

    max_size: ClassVar[int] = 2**24

    def __post_init__(self) -> None:
        # Python's integers, which do not overflow.
        object.__setattr__(self, "vocab_size", _checks.positive_int("vocab_size", self.vocab_size))
        object.__setattr__(self, "max_length", _checks.positive_int("max_length", self.max_length))
        _checks.flag("eos", self.eos)
        # For huge spaces a lower bound on the size is enough.
        levels = min(self.max_length, 64) if self.num_continuing > 1 else self.max_length
        size = self._size(levels)
        if size > self.max_size:
            count = f"{size:,}" if levels == self.max_length else f"more than 10^{int(math.log10(size))}"
            raise ValueError(
                f"`vocab_size` {self.vocab_size} and `max_length` {self.max_length} make a space too "
                f"large to enumerate: {count} sequences, and the limit is {self.max_size:,}"
            )
        if size * self.max_length > 64 * self.max_size:
            raise ValueError(
                f"`max_length` {self.max_length} makes a space too large to enumerate: a table of "
                f"{size:,} x {self.max_length:,} tokens, and the limit is {64 * self.max_size:,}"
            )

    def _size(self, levels: int) -> int:
        ended = self._level_start(levels - 1) if self.eos else 0
        return ended + self.num_continuing ** (levels - 1) * self.vocab_size

    def _level_start(self, level: int) -> int:
        """The number of prefixes shorter than `level`: the sum of C^k for k < level."""
        continuing = self.num_continuing
        if continuing == 1:
            return level
        return (continuing**level - 1) // (continuing - 1)

    @property
    def num_continuing(self) -> int:
        """The number of tokens that do not end a sequence."""
        return self.vocab_size - 1 if self.eos else self.vocab_size

    @property
    def eos_token(self) -> int | None:
        """The token that ends a sequence, which is the last of the vocabulary; None without `eos`."""
        return self.vocab_size - 1 if self.eos else None

    @property
    def size(self) -> int:
        """The number of sequences."""
        return self._size(self.max_length)

    @property
    def num_prefixes(self) -> int:
        """The number of prefixes that a next token follows, including the empty prefix."""
        return self._level_start(self.max_length)

    @cached_property
    def sequences(self) -> Int[np.ndarray, "sequences max_length"]:
        """All sequences, one in each row, padded with -1."""
        return _read_only(np.concatenate([*self._ended_levels, self._full_level]))

    @cached_property
    def lengths(self) -> Int[np.ndarray, " sequences"]:
        """The number of tokens of every sequence, including an ending token."""
        counts = [np.full(len(level), k + 1) for k, level in enumerate(self._ended_levels)]
        counts.append(np.full(len(self._full_level), self.max_length))
        return _read_only(np.concatenate(counts))

    @cached_property
    def prefixes(self) -> Int[np.ndarray, "prefixes max_length_less_1"]:
        """All prefixes that a next token follows, one in each row, padded with -1."""
        return _read_only(np.concatenate([self._prefix_level(k)[:, :-1] for k in range(self.max_length)]))

    def _prefix_level(self, level: int) -> np.ndarray:
        """The prefixes of `level` tokens, padded to `max_length`."""
        rows = np.full((self.num_continuing**level, self.max_length), -1, dtype=np.int32)
        codes = np.arange(len(rows))
        for place in reversed(range(level)):
            codes, rows[:, place] = np.divmod(codes, max(self.num_continuing, 1))
        return rows

    @property
    def _ended_levels(self) -> list[np.ndarray]:
        """The sequences of fewer than `max_length` tokens, one array for each length."""
        if not self.eos:
            return []
        levels = [self._prefix_level(k) for k in range(self.max_length - 1)]
        for place, rows in enumerate(levels):
            rows[:, place] = self.eos_token
        return levels

    @property
    def _full_level(self) -> np.ndarray:
        """The sequences of `max_length` tokens."""
        rows = np.repeat(self._prefix_level(self.max_length - 1), self.vocab_size, axis=0)
        rows[:, -1] = np.resize(np.arange(self.vocab_size), len(rows))
        return rows

    def index(self, tokens: Any) -> Any:
        """The index of a sequence, or of an array of sequences.

        Args:
            tokens: a sequence of token ids, with or without its padding of -1, or an integer array
                `[..., places]` with one sequence in each row.

        Returns:
            An int for one sequence, an integer array `[...]` for several. O(max_length) for each.

        Raises:
            ValueError: a row is not a sequence of this space.
        """
        rows = self._padded("tokens", tokens)
        used = self._used(rows)
        last = np.take_along_axis(rows, np.maximum(used - 1, 0)[..., None], axis=-1)[..., 0]
        ended = last == self.eos_token if self.eos else np.zeros(last.shape, bool)
        whole = (used > 0) & (ended | (used == self.max_length))
        self._refuse("tokens", rows, whole, "a whole sequence of the space")
        inner = np.arange(self.max_length) < (used - 1)[..., None]
        self._check_continuing("tokens", rows, inner)
        code = self._code(rows, inner)
        starts = np.array([self._level_start(k) for k in range(self.max_length)])
        full = used == self.max_length
        index = np.where(full, code * self.vocab_size + last, code)
        index = index + (starts[used - 1] if self.eos else 0)
        return int(index) if index.ndim == 0 else index

    def decode(self, index: Any) -> Any:
        """The sequence at `index`, as a tuple of tokens without padding.

        For an array of indices, the result is the array of these rows of `sequences`, with padding.

        Raises:
            ValueError: `index` is out of range.
        """
        try:
            position = np.asarray(index)
        except (TypeError, ValueError):
            raise ValueError(f"`index` must be an integer; got {index!r}") from None
        if not np.issubdtype(position.dtype, np.integer):
            raise ValueError(f"`index` must be an integer; got {index!r}")
        if position.size and (position.min() < 0 or position.max() >= self.size):
            raise ValueError(f"`index` must be from 0 to {self.size - 1}; got {index!r}")
        if position.ndim:
            return self.sequences[position]
        row = self.sequences[int(position)]
        return tuple(int(token) for token in row if token >= 0)

    def prefix_index(self, tokens: Any) -> Any:
        """The row number of a prefix in `prefixes`, and in tables of next-token values.

        Args:
            tokens: a prefix of fewer than `max_length` tokens, none of them the ending token. It can be
                empty. Or an integer array `[..., places]` with one prefix in each row, padded with -1.

        Returns:
            An int for one prefix, an integer array `[...]` for several. O(max_length) for each.

        Raises:
            ValueError: a row is not one of `prefixes`.
        """
        rows = self._padded("tokens", tokens)
        used = self._used(rows)
        self._refuse("tokens", rows, used < self.max_length, "shorter than `max_length`")
        inner = np.arange(self.max_length) < used[..., None]
        self._check_continuing("tokens", rows, inner)
        starts = np.array([self._level_start(k) for k in range(self.max_length)])
        index = self._code(rows, inner) + starts[used]
        return int(index) if index.ndim == 0 else index

    def _padded(self, name: str, tokens: Any) -> np.ndarray:
        try:
            rows = np.asarray(tokens)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` must be rows of equal length; got {tokens!r}") from None
        rows = rows if rows.size else rows.astype(int)
        if not np.issubdtype(rows.dtype, np.integer) or rows.ndim == 0:
            raise ValueError(f"`{name}` must be a sequence of token ids; got {tokens!r}")
        if rows.shape[-1] > self.max_length:
            raise ValueError(
                f"`{name}` must have at most `max_length` = {self.max_length} places; got {rows.shape[-1]}"
            )
        if rows.size and (rows.min() < -1 or rows.max() >= self.vocab_size):
            raise ValueError(
                f"`{name}` must be token ids from 0 to {self.vocab_size - 1}, padded with -1; got {tokens!r}"
            )
        missing = self.max_length - rows.shape[-1]
        return np.pad(rows.astype(np.int64), [(0, 0)] * (rows.ndim - 1) + [(0, missing)], constant_values=-1)

    def _used(self, rows: np.ndarray) -> np.ndarray:
        used = np.asarray(np.sum(rows >= 0, axis=-1))
        in_front = np.all((rows >= 0) == (np.arange(self.max_length) < used[..., None]), axis=-1)
        self._refuse("tokens", rows, in_front, "padded with -1 at the end only")
        return used

    def _check_continuing(self, name: str, rows: np.ndarray, inner: np.ndarray) -> None:
        good = np.all(~inner | (rows < self.num_continuing), axis=-1)
        self._refuse(
            name, rows, good, f"without the ending token {self.eos_token}, except at the end of a sequence"
        )

    def _refuse(self, name: str, rows: np.ndarray, good: Any, expected: str) -> None:
        if not np.all(good):
            row = rows[np.unravel_index(np.argmin(good), good.shape)]
            raise ValueError(f"`{name}` must be {expected}; got {row.tolist()}")

    def _code(self, rows: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """The number whose digits in base `num_continuing` are the tokens marked by `inner`."""
        code = np.zeros(rows.shape[:-1], dtype=np.int64)
        for place in range(self.max_length):
            code = np.where(inner[..., place], code * self.num_continuing + rows[..., place], code)
        return code

    def log_probs(self, next_token_log_probs: Float[ArrayLike, "*batch prefixes vocab"]) -> LogProbs:
        """The log-probability of every sequence, by the chain rule.

            log π(y) = Σ_t log π(y_t | y_<t)

        The prefix tree is walked down once, level by level: O(size) time and memory.

        Args:
            next_token_log_probs: log-probabilities of the next token after each prefix, in the order
                of `prefixes`, normalised over the last axis.

        Returns:
            Log-probabilities in nats, `[*batch, sequences]`, normalised.

        Raises:
            ValueError: the table is not normalised, or its last two axes are not
                `(num_prefixes, vocab_size)`.
        """
        table = _checks.float_array("next_token_log_probs", next_token_log_probs)
        if table.shape[-2:] != (self.num_prefixes, self.vocab_size):
            raise ValueError(
                "`next_token_log_probs` must end in (num_prefixes, vocab_size) = "
                f"({self.num_prefixes}, {self.vocab_size}); got shape {table.shape}"
            )
        table = _checks.distribution("next_token_log_probs", next_token_log_probs)
        batch = table.shape[:-2]
        ended = []
        running = jnp.zeros((*batch, 1), table.dtype)
        for level in range(self.max_length):
            start, stop = self._level_start(level), self._level_start(level + 1)
            children = running[..., None] + table[..., start:stop, :]
            if self.eos and level < self.max_length - 1:
                ended.append(children[..., -1])
                children = children[..., :-1]
            running = children.reshape(*batch, children.shape[-2] * children.shape[-1])
        return jnp.concatenate([*ended, running], axis=-1)

    def next_token_log_probs(self, log_probs: LogProbsLike) -> Float[Array, "*batch prefixes vocab"]:
        """The next-token log-probabilities of a distribution over sequences: the inverse of `log_probs`.

            log π(v | prefix) = log P(prefix v) − log P(prefix)

        The prefix tree is walked up once: O(size) time and memory.

        Args:
            log_probs: log-probabilities of full support, normalised over the last axis.

        Raises:
            ValueError: `log_probs` is not normalised, has a zero, or is not over this space.
        """
        log_probs = _checks.distribution("log_probs", log_probs, full_support=True)
        if log_probs.shape[-1] != self.size:
            raise ValueError(
                f"`log_probs` must be over the {self.size} sequences of the space; "
                f"got shape {log_probs.shape}"
            )
        batch = log_probs.shape[:-1]
        first_full = self.size - self.num_continuing ** (self.max_length - 1) * self.vocab_size
        children = log_probs[..., first_full:].reshape(
            *batch, self.num_continuing ** (self.max_length - 1), self.vocab_size
        )
        tables: list[Array] = []
        for level in reversed(range(self.max_length)):
            mass = logsumexp(children, axis=-1)
            tables.insert(0, children - mass[..., None])
            if level > 0:
                continuing = self.num_continuing
                children = mass.reshape(*batch, continuing ** (level - 1), continuing)
                if self.eos:
                    start, stop = self._level_start(level - 1), self._level_start(level)
                    children = jnp.concatenate([children, log_probs[..., start:stop, None]], axis=-1)
        return jnp.concatenate(tables, axis=-2)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array

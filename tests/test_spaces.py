import itertools
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from didsim import SequenceSpace
from tests.strategies import hostile_logits

SHAPES = [
    (vocab, length, eos)
    for vocab, length, eos in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), (False, True))
    if vocab**length <= 81
]

spaces = st.sampled_from(SHAPES).map(lambda shape: SequenceSpace(*shape))
small_spaces = st.sampled_from([(2, 2, False), (2, 3, True), (3, 2, True), (1, 3, True), (3, 1, False)]).map(
    lambda shape: SequenceSpace(*shape)
)


def brute_force(space: SequenceSpace) -> list[tuple[int, ...]]:
    """All sequences by `itertools.product`: by length, then lexicographic."""
    if not space.eos:
        return list(itertools.product(range(space.vocab_size), repeat=space.max_length))
    end = space.vocab_size - 1
    found = []
    for length in range(1, space.max_length + 1):
        for tokens in itertools.product(range(space.vocab_size), repeat=length):
            ends_early = end in tokens[:-1]
            whole = tokens[-1] == end or length == space.max_length
            if whole and not ends_early:
                found.append(tokens)
    return found


def brute_force_prefixes(space: SequenceSpace) -> list[tuple[int, ...]]:
    continuing = space.vocab_size - 1 if space.eos else space.vocab_size
    return [
        tokens
        for length in range(space.max_length)
        for tokens in itertools.product(range(continuing), repeat=length)
    ]


def padded(tokens: tuple[int, ...], width: int) -> list[int]:
    return [*tokens, *[-1] * (width - len(tokens))]


@pytest.mark.parametrize("shape", SHAPES)
def test_enumeration_agrees_with_brute_force(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    expected = brute_force(space)
    assert space.size == len(expected)
    assert space.sequences.tolist() == [padded(tokens, space.max_length) for tokens in expected]
    assert space.lengths.tolist() == [len(tokens) for tokens in expected]


@pytest.mark.parametrize("shape", SHAPES)
def test_prefixes_agree_with_brute_force(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    expected = brute_force_prefixes(space)
    assert space.num_prefixes == len(expected)
    assert space.prefixes.shape == (len(expected), space.max_length - 1)
    assert space.prefixes.tolist() == [padded(tokens, space.max_length - 1) for tokens in expected]


@pytest.mark.parametrize("shape", SHAPES)
def test_index_inverts_enumeration(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    for position, tokens in enumerate(brute_force(space)):
        assert space.index(tokens) == position
        assert space.index(padded(tokens, space.max_length)) == position
        assert space.decode(position) == tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_prefix_index_inverts_enumeration(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    for position, tokens in enumerate(brute_force_prefixes(space)):
        assert space.prefix_index(tokens) == position
    assert np.array_equal(space.prefix_index(space.prefixes), np.arange(space.num_prefixes))


@given(spaces, st.data())
def test_arrays_of_indices_and_rows_round_trip(space: SequenceSpace, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(3,), (2, 2), (0,)]))
    count = int(np.prod(shape))
    drawn = data.draw(st.lists(st.integers(0, space.size - 1), min_size=count, max_size=count))
    positions = np.array(drawn, dtype=int).reshape(shape)
    rows = space.decode(positions)
    assert rows.shape == (*shape, space.max_length)
    assert np.array_equal(space.index(rows), positions)


def test_index_takes_jax_arrays_and_any_integer_dtype() -> None:
    space = SequenceSpace(3, 2, eos=True)
    assert space.index(jnp.array([1, 2])) == 6
    assert space.index(np.array([1, 2], np.uint8)) == 6
    assert space.decode(jnp.array(6)) == (1, 2)
    assert type(space.index((1, 2))) is int


def test_one_sequence_spaces() -> None:
    assert SequenceSpace(1, 3).sequences.tolist() == [[0, 0, 0]]
    only_end = SequenceSpace(1, 3, eos=True)
    assert only_end.sequences.tolist() == [[0, -1, -1]]
    assert only_end.num_prefixes == 1


def test_eos_token_is_the_last_of_the_vocabulary() -> None:
    assert SequenceSpace(5, 2, eos=True).eos_token == 4
    assert SequenceSpace(5, 2, eos=True).num_continuing == 4
    assert SequenceSpace(5, 2).eos_token is None
    assert SequenceSpace(5, 2).num_continuing == 5


def test_spaces_are_values() -> None:
    first, second = SequenceSpace(3, 2, eos=True), SequenceSpace(3, 2, eos=True)
    assert first.size == len(first.sequences)
    assert first == second
    assert hash(first) == hash(second)
    assert first != SequenceSpace(3, 2)
    assert pickle.loads(pickle.dumps(first)) == first


def test_tables_are_read_only() -> None:
    space = SequenceSpace(2, 2, eos=True)
    for table in (space.sequences, space.lengths, space.prefixes):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
    with pytest.raises(AttributeError):
        space.vocab_size = 3  # type: ignore[misc]


LOG_PROBS = jax.jit(lambda space, table: space.log_probs(table), static_argnums=0)
NEXT = jax.jit(lambda space, log_probs: space.next_token_log_probs(log_probs), static_argnums=0)


def by_one(space: SequenceSpace, table: np.ndarray) -> np.ndarray:
    """The chain rule one sequence and one token at a time."""
    rows = {tokens: row for row, tokens in enumerate(brute_force_prefixes(space))}
    return np.array(
        [sum(table[rows[y[:t]], y[t]] for t in range(len(y))) for y in brute_force(space)], dtype=table.dtype
    )


@given(small_spaces, st.data())
def test_chain_rule_agrees_with_one_by_one_evaluation(space: SequenceSpace, data: st.DataObject) -> None:
    logits = data.draw(hostile_logits(space.num_prefixes * space.vocab_size))
    table = log_softmax(logits.reshape(space.num_prefixes, space.vocab_size), axis=-1)
    log_probs = np.asarray(LOG_PROBS(space, table))
    np.testing.assert_allclose(log_probs, by_one(space, table), rtol=1e-13, atol=1e-13)
    # A total of 4 levels of rounding: 4 eps of a magnitude up to 4 · 1400 nats is 5e-12.
    assert abs(logsumexp(log_probs)) < 1e-11


@given(small_spaces, st.data())
def test_next_token_log_probs_inverts_the_chain_rule(space: SequenceSpace, data: st.DataObject) -> None:
    p = log_softmax(data.draw(hostile_logits(space.size)))
    table = np.asarray(NEXT(space, p))
    assert table.shape == (space.num_prefixes, space.vocab_size)
    np.testing.assert_allclose(logsumexp(table, axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(LOG_PROBS(space, table), p, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, False), (3, 3, True), (1, 2, True)])
def test_next_token_probabilities_are_conditional_frequencies(shape: tuple[int, int, bool]) -> None:
    space = SequenceSpace(*shape)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(space.size))
    table = np.exp(np.asarray(space.next_token_log_probs(jnp.log(p))))
    sequences = brute_force(space)
    for row, prefix in enumerate(brute_force_prefixes(space)):
        starts = [y[: len(prefix)] == prefix and len(y) > len(prefix) for y in sequences]
        mass = sum(p[starts])
        for token in range(space.vocab_size):
            follows = [start and y[len(prefix)] == token for start, y in zip(starts, sequences, strict=True)]
            assert table[row, token] == pytest.approx(sum(p[follows]) / mass, rel=1e-12)


def test_batches_and_jit_agree_with_one_at_a_time() -> None:
    space = SequenceSpace(3, 3, eos=True)
    logits = np.random.default_rng(1).normal(size=(2, 4, space.num_prefixes, 3))
    tables = log_softmax(logits, axis=-1)
    batch = space.log_probs(jnp.asarray(tables))
    assert batch.shape == (2, 4, space.size)
    np.testing.assert_allclose(LOG_PROBS(space, tables), batch, rtol=1e-14)
    np.testing.assert_allclose(
        jax.vmap(lambda t: LOG_PROBS(space, t))(jnp.asarray(tables)), batch, rtol=1e-14
    )
    np.testing.assert_allclose(batch[1, 2], by_one(space, tables[1, 2]), rtol=1e-14)
    np.testing.assert_allclose(space.next_token_log_probs(batch), tables, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(NEXT(space, batch), tables, rtol=1e-12, atol=1e-13)


def test_float32_tables_stay_float32() -> None:
    space = SequenceSpace(3, 3, eos=True)
    table = log_softmax(np.random.default_rng(2).normal(size=(space.num_prefixes, 3)), axis=-1)
    narrow = table.astype(np.float32)
    log_probs = LOG_PROBS(space, narrow)
    assert log_probs.dtype == jnp.float32
    # Two additions, the first of them to zero and exact, each rounding to half an epsilon of the result.
    bound = 2 * np.finfo(np.float32).eps * np.abs(by_one(space, narrow.astype(float)))
    assert (np.abs(np.asarray(log_probs, float) - by_one(space, narrow.astype(float))) <= bound).all()
    assert NEXT(space, log_probs).dtype == jnp.float32


def test_gradient_of_the_chain_rule_counts_the_tokens_used() -> None:
    space = SequenceSpace(2, 2, eos=True)
    table = jnp.log(jnp.full((space.num_prefixes, 2), 0.5))
    jacobian = jax.jacobian(space.log_probs)(table)
    for position, tokens in enumerate(brute_force(space)):
        expected = np.zeros((space.num_prefixes, 2))
        for place, token in enumerate(tokens):
            expected[space.prefix_index(tokens[:place]), token] += 1
        assert np.array_equal(jacobian[position], expected)


@pytest.mark.slow
def test_a_million_sequences_are_quick() -> None:
    start = time.perf_counter()
    space = SequenceSpace(4, 10)
    assert space.size == 4**10
    assert space.sequences.shape == (4**10, 10)
    positions = np.array([0, 12345, 4**10 - 1])
    assert np.array_equal(space.index(space.decode(positions)), positions)
    table = jnp.full((space.num_prefixes, 4), -jnp.log(4.0))
    log_probs = jax.jit(space.log_probs)(table)
    np.testing.assert_allclose(log_probs[::4099], -10 * np.log(4), rtol=1e-14)
    np.testing.assert_allclose(jax.jit(space.next_token_log_probs)(log_probs)[::4099], -np.log(4), rtol=1e-12)
    # Token by token in Python it would take minutes.
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, None, "3"])
def test_sizes_must_be_positive_integers(bad: int) -> None:
    with pytest.raises(ValueError, match="`vocab_size` must be an integer of at least 1; got"):
        SequenceSpace(bad, 2)
    with pytest.raises(ValueError, match="`max_length` must be an integer of at least 1; got"):
        SequenceSpace(2, bad)


@pytest.mark.parametrize(
    "shape", [(2, 25, False), (2**24 + 1, 1, False), (4, 16, True), (10, 80, False), (2, 10**9, True)]
)
def test_spaces_too_large_say_their_size_and_the_limit(shape: tuple[int, int, bool]) -> None:
    vocab, length, _ = shape
    expected = f"`vocab_size` {vocab} and `max_length` {length} make a space too large to enumerate: "
    with pytest.raises(ValueError, match=expected + ".* sequences, and the limit is 16,777,216"):
        SequenceSpace(*shape)


@pytest.mark.parametrize("eos", [False, True])
def test_the_vocabulary_of_a_language_model_is_refused_with_the_same_error(eos: bool) -> None:
    with pytest.raises(ValueError, match="`vocab_size` 128000 and `max_length` 4096 make a space too large"):
        SequenceSpace(128_000, 4096, eos)


@pytest.mark.parametrize("vocab", [2, 10, 16, 2**16])
def test_sizes_of_numpy_integers_do_not_overflow(vocab: int) -> None:
    for length in (4, 8, 16, 64):
        if vocab**length > SequenceSpace.max_size:
            with pytest.raises(ValueError, match="too large to enumerate"):
                SequenceSpace(np.int64(vocab), np.int64(length))  # type: ignore[arg-type]


def test_the_largest_space_is_allowed() -> None:
    assert SequenceSpace(2, 24).size == SequenceSpace.max_size


def test_a_table_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_length` 2000000000 makes a space too large to enumerate"):
        SequenceSpace(1, 2 * 10**9)


SPACE = SequenceSpace(3, 3, eos=True)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((0, 1), "a whole sequence of the space; got"),
        ((), "a whole sequence of the space; got"),
        ((2, 0), "without the ending token 2, except at the end of a sequence|a whole sequence"),
        ((0, 2, 1), "without the ending token 2, except at the end of a sequence; got"),
        ((0, -1, 1), "padded with -1 at the end only; got"),
        ((0, 1, 0, 1), "at most `max_length` = 3 places; got 4"),
        ((0, 3), "token ids from 0 to 2, padded with -1; got"),
        ((0, -2), "token ids from 0 to 2, padded with -1; got"),
        ((0.0, 2.0), "a sequence of token ids; got"),
        (2, "a sequence of token ids; got 2"),
        ([[2, -1, -1], [0, 1, -1]], r"a whole sequence of the space; got \[0, 1, -1\]"),
    ],
)
def test_index_refuses_what_is_no_sequence(tokens: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"`tokens` must (be|have) ({expected})"):
        SPACE.index(tokens)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((0, 1, 0), "shorter than `max_length`; got"),
        ((0, 2), "without the ending token 2, except at the end of a sequence; got"),
        ((0, 5), "token ids from 0 to 2"),
        ((-1, 0), "padded with -1 at the end only; got"),
    ],
)
def test_prefix_index_refuses_what_is_no_prefix(tokens: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"`tokens` must be {expected}"):
        SPACE.prefix_index(tokens)


@pytest.mark.parametrize("bad", [-1, SPACE.size, [0, SPACE.size]])
def test_decode_refuses_what_is_out_of_range(bad: object) -> None:
    with pytest.raises(ValueError, match=f"`index` must be from 0 to {SPACE.size - 1}; got"):
        SPACE.decode(bad)


@pytest.mark.parametrize("bad", [0.0, [1.5], True, "1"])
def test_decode_refuses_what_is_no_integer(bad: object) -> None:
    with pytest.raises(ValueError, match="`index` must be an integer; got"):
        SPACE.decode(bad)


@pytest.mark.parametrize("shape", [(7,), (6, 3), (7, 4), (3, 7)])
def test_chain_rule_refuses_a_table_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`next_token_log_probs` must end in .* = \(7, 3\); got shape"):
        SPACE.log_probs(jnp.zeros(shape))


def test_next_token_log_probs_refuses_what_is_no_distribution_over_the_space() -> None:
    size = SPACE.size
    uniform = np.full(size, -np.log(size))
    with pytest.raises(ValueError, match=rf"`log_probs` must be over the {size} sequences .*\(2,\)"):
        SPACE.next_token_log_probs(jnp.log(jnp.array([0.5, 0.5])))
    with pytest.raises(ValueError, match="`log_probs` must be log-probabilities normalised"):
        SPACE.next_token_log_probs(jnp.asarray(uniform + 0.1))
    with pytest.raises(ValueError, match="`log_probs` must give every sequence a positive probability"):
        SPACE.next_token_log_probs(jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf))
    with pytest.raises(ValueError, match="`log_probs` must be log-probabilities; got NaN"):
        SPACE.next_token_log_probs(jnp.asarray(uniform * np.nan))


def test_chain_rule_refuses_a_table_that_is_not_normalised() -> None:
    space = SequenceSpace(2, 2)
    with pytest.raises(ValueError, match="`next_token_log_probs` must be log-probabilities normalised"):
        space.log_probs(np.ones((3, 2)))
    with pytest.raises(ValueError, match="`next_token_log_probs` must be a floating-point array"):
        space.log_probs("abc")  # type: ignore[arg-type]


def test_eos_must_be_a_truth_value() -> None:
    with pytest.raises(ValueError, match="`eos` must be True or False; got 'false'"):
        SequenceSpace(2, 2, eos="false")  # type: ignore[arg-type]


def test_ragged_rows_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="`tokens` must be rows of equal length"):
        SequenceSpace(2, 2).index([[0, 1], [0]])


@pytest.mark.parametrize("space", [SequenceSpace(3, 4), SequenceSpace(4, 3, eos=True)])
def test_float32_next_token_probabilities_are_within_their_rounding(space: SequenceSpace) -> None:
    p = log_softmax(np.random.default_rng(0).normal(0, 4, space.size)).astype(np.float32)
    table = space.next_token_log_probs(p)
    assert table.dtype == jnp.float32
    exact = space.next_token_log_probs(p.astype(np.float64) - logsumexp(p.astype(np.float64)))
    # Each level takes a sum over the vocabulary, and the difference of two levels is rounded at their size.
    bound = np.finfo(np.float32).eps * (4 * np.abs(p).max() + space.max_length * (space.vocab_size + 8))
    assert np.abs(np.asarray(table, np.float64) - exact).max() <= bound

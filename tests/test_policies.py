import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import log_softmax, logsumexp

from didsim import Autoregressive, EnergyBased, LogLinear, Policy, SequenceSpace
from tests.strategies import hostile_logits, policies, sizes

SPACE = SequenceSpace(3, 3, eos=True)
EPS32 = float(np.finfo(np.float32).eps)

LOG_PROBS = eqx.filter_jit(lambda policy: policy.log_probs())

small_spaces = st.sampled_from([(2, 2, False), (2, 3, True), (3, 2, True), (1, 3, True)]).map(
    lambda shape: SequenceSpace(*shape)
)


def table(space: SequenceSpace, *batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*batch, space.num_prefixes, space.vocab_size))


def token_by_token(logits: np.ndarray, space: SequenceSpace) -> list[float]:
    """The log-probability of every sequence, from conditional probabilities of tokens given prefixes."""
    conditional = {
        tuple(token for token in prefix if token >= 0): row - logsumexp(row)
        for prefix, row in zip(space.prefixes.tolist(), logits, strict=True)
    }
    result = []
    for row in space.sequences.tolist():
        tokens = tuple(token for token in row if token >= 0)
        result.append(sum(conditional[tokens[:t]][token] for t, token in enumerate(tokens)))
    return result


@given(sizes.flatmap(hostile_logits))
def test_energy_based_is_a_softmax(logits: np.ndarray) -> None:
    p = np.asarray(LOG_PROBS(EnergyBased(logits)))
    np.testing.assert_allclose(p, log_softmax(logits), rtol=1e-14, atol=1e-15)


@given(sizes.flatmap(policies))
def test_energy_based_starts_at_a_given_distribution(p: np.ndarray) -> None:
    np.testing.assert_allclose(LOG_PROBS(EnergyBased(p)), p, rtol=1e-14, atol=1e-14)


@given(small_spaces, st.data())
def test_autoregressive_agrees_with_the_chain_rule(space: SequenceSpace, data: st.DataObject) -> None:
    logits = data.draw(hostile_logits(space.num_prefixes * space.vocab_size))
    logits = logits.reshape(space.num_prefixes, space.vocab_size)
    policy = Autoregressive(logits, space)
    expected = token_by_token(logits, space)
    np.testing.assert_allclose(LOG_PROBS(policy), expected, rtol=1e-13, atol=1e-13)
    for index in (0, space.size - 1):
        one = policy.log_prob(space.decode(index))
        np.testing.assert_allclose(one, expected[index], rtol=1e-13, atol=1e-13)


def test_log_prob_agrees_with_log_probs_on_every_sequence() -> None:
    policy = Autoregressive(table(SPACE, 2), SPACE)
    whole = policy.log_probs()
    assert whole.shape == (2, SPACE.size)
    for index in range(SPACE.size):
        one = policy.log_prob(SPACE.decode(index))
        assert one.shape == (2,)
        np.testing.assert_allclose(one, whole[:, index], rtol=1e-13)


def test_log_prob_takes_padded_tokens() -> None:
    policy = Autoregressive(table(SPACE), SPACE)
    assert float(policy.log_prob([0, 2, -1])) == float(policy.log_prob((0, 2)))


@given(small_spaces, st.data())
def test_autoregressive_holds_every_distribution(space: SequenceSpace, data: st.DataObject) -> None:
    p = data.draw(policies(space.size))
    policy = Autoregressive.from_log_probs(jnp.asarray(p), space)
    # Two or three levels of sums and differences of up to 1400 nats, each good to 2e-13.
    np.testing.assert_allclose(LOG_PROBS(policy), p, rtol=1e-12, atol=1e-11)


def test_autoregressive_gradient_moves_all_that_share_a_prefix() -> None:
    space = SequenceSpace(2, 2)
    logits = jnp.asarray(table(space))
    gradient = jax.jit(jax.jacobian(lambda x: Autoregressive(x, space).log_probs()))(logits)
    touched = np.abs(np.asarray(gradient)).sum(-1) > 0
    expected = [[True, True, False], [True, True, False], [True, False, True], [True, False, True]]
    assert touched.tolist() == expected


@given(st.data())
def test_log_linear_is_a_softmax_of_scores(data: st.DataObject) -> None:
    features = data.draw(hostile_logits(8)).reshape(4, 2)
    weights = data.draw(st.sampled_from([np.array([0.0, 0.0]), np.array([1.0, -1.0]), np.array([0.1, 2.0])]))
    scores = [float(sum(f * w for f, w in zip(row, weights, strict=True))) for row in features]
    policy = LogLinear(features, weights)
    np.testing.assert_allclose(LOG_PROBS(policy), log_softmax(scores), rtol=1e-12, atol=1e-12)


def policies_in_batches() -> list[Policy]:
    rng = np.random.default_rng(0)
    return [
        EnergyBased(rng.normal(size=(2, 4, 5))),
        Autoregressive(table(SPACE, 2, 4), SPACE),
        LogLinear(rng.normal(size=(6, 3)), rng.normal(size=(2, 4, 3))),
    ]


def first_of_batch(policy: Policy) -> Policy:
    dynamic, static = eqx.partition(policy, policy.trainable())
    return eqx.combine(jax.tree.map(lambda x: x[1, 2], dynamic), static)


@pytest.mark.parametrize("policy", policies_in_batches(), ids=lambda policy: type(policy).__name__)
def test_batches_agree_with_their_members(policy: Policy) -> None:
    batch = policy.log_probs()
    assert batch.shape[:2] == (2, 4)
    np.testing.assert_allclose(logsumexp(batch, axis=-1), 0, atol=1e-13)
    np.testing.assert_allclose(first_of_batch(policy).log_probs(), batch[1, 2], rtol=1e-12)
    np.testing.assert_allclose(LOG_PROBS(policy), batch, rtol=1e-12)


@pytest.mark.parametrize("policy", policies_in_batches(), ids=lambda policy: type(policy).__name__)
def test_gradients_agree_with_finite_differences(policy: Policy) -> None:
    one = first_of_batch(policy)
    dynamic, static = eqx.partition(one, one.trainable())
    check_grads(jax.jit(lambda d: eqx.combine(d, static).log_probs()), (dynamic,), 1, atol=1e-7, rtol=1e-7)


def _weighted(policy: Policy) -> jax.Array:
    p = policy.log_probs()
    return jnp.arange(1.0, p.shape[-1] + 1) @ p


GRADIENT = eqx.filter_jit(eqx.filter_grad(_weighted))


@given(sizes.flatmap(hostile_logits))
def test_energy_based_gradients_are_finite(logits: np.ndarray) -> None:
    assert np.isfinite(GRADIENT(EnergyBased(logits)).logits).all()


@given(st.data())
def test_autoregressive_gradients_are_finite(data: st.DataObject) -> None:
    space = SequenceSpace(2, 3, eos=True)
    logits = data.draw(hostile_logits(space.num_prefixes * 2)).reshape(-1, 2)
    assert np.isfinite(GRADIENT(Autoregressive(logits, space)).logits).all()


def test_everything_but_the_features_is_trained() -> None:
    energy, autoregressive, linear = policies_in_batches()
    assert jax.tree.leaves(energy.trainable()) == [True]
    assert jax.tree.leaves(autoregressive.trainable()) == [True]
    assert linear.trainable().features is False
    assert linear.trainable().weights is True


def test_every_policy_is_a_policy() -> None:
    assert all(isinstance(policy, Policy) for policy in policies_in_batches())
    with pytest.raises(TypeError, match="abstract"):
        Policy()  # type: ignore[abstract]


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: EnergyBased(np.array([0.5, -700.0, 700.0], dtype)),
        lambda dtype: Autoregressive(table(SPACE).astype(dtype), SPACE),
        lambda dtype: LogLinear(np.eye(4, 2, dtype=dtype), np.array([0.5, -3.0], dtype)),
    ],
    ids=["EnergyBased", "Autoregressive", "LogLinear"],
)
def test_float32_policies_stay_float32(make: Callable[[type], Policy]) -> None:
    narrow = make(np.float32)
    p = narrow.log_probs()
    assert p.dtype == jnp.float32
    gradient = GRADIENT(narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    widened = jax.tree.map(lambda x: x.astype(jnp.float64), narrow).log_probs()
    # A level is a softmax: rounding of the shift and of the sum, 8 eps and 2 eps of the size of its logits.
    # At most 3 levels, and a product with 2 features, which are added with half an eps of each.
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(narrow))
    bound = 3 * EPS32 * (8 + 4 * largest)
    assert np.abs(np.asarray(p, float) - np.asarray(widened)).max() <= bound


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_parameters_must_be_finite(bad: float) -> None:
    logits = table(SPACE)
    logits[2, 1] = bad
    with pytest.raises(ValueError, match=f"`logits` must be finite everywhere; got {bad} at index"):
        Autoregressive(logits, SPACE)
    with pytest.raises(ValueError, match=f"`logits` must be finite everywhere; got {bad} at index"):
        EnergyBased(logits[2])
    with pytest.raises(ValueError, match=f"`weights` must be finite everywhere; got {bad} at index"):
        LogLinear(np.eye(3), logits[2])
    with pytest.raises(ValueError, match=f"`features` must be finite everywhere; got {bad} at index"):
        LogLinear(logits, np.ones(3))


def test_parameters_must_be_floating_point_and_not_empty() -> None:
    with pytest.raises(ValueError, match="`logits` must be a floating-point array; got dtype int"):
        EnergyBased(np.arange(3))
    with pytest.raises(ValueError, match=r"`logits` must not be empty; got shape \(0,\)"):
        EnergyBased(np.zeros(0))
    with pytest.raises(ValueError, match=r"`logits` must have at least 1 axis .* got shape \(\)"):
        EnergyBased(0.5)
    with pytest.raises(ValueError, match=r"`features` must have at least 2 axis .* got shape \(3,\)"):
        LogLinear(np.ones(3), np.ones(3))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (6, 3), (7, 2)])
def test_autoregressive_refuses_a_table_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`logits` must end in .* = \(7, 3\); got shape \("):
        Autoregressive(np.zeros(shape), SPACE)


def test_from_log_probs_refuses_what_is_no_distribution_over_the_space() -> None:
    with pytest.raises(ValueError, match="`log_probs` must be over the 15 sequences of the space"):
        Autoregressive.from_log_probs(jnp.log(jnp.array([0.5, 0.5])), SPACE)
    with pytest.raises(ValueError, match="`log_probs` must be log-probabilities normalised"):
        Autoregressive.from_log_probs(jnp.zeros(15), SPACE)


def test_log_prob_refuses_what_is_no_sequence() -> None:
    policy = Autoregressive(table(SPACE), SPACE)
    with pytest.raises(ValueError, match="`tokens` must be a whole sequence of the space; got"):
        policy.log_prob((0, 1))


@pytest.mark.parametrize("shapes", [((4, 3), (2,)), ((2, 1, 4, 3), (3,)), ((4, 1), (3,))])
def test_features_and_weights_must_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    features, weights = (np.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"`features` must be \[sequences, features\] .* `weights`; got"):
        LogLinear(features, weights)


def test_a_restricted_family_does_not_reach_every_pair_of_margins() -> None:
    features = np.array([[0.0], [1.0], [2.0]])
    for weight in itertools.chain(np.linspace(-3, 3, 5), (100.0,)):
        p = np.asarray(LogLinear(features, np.array([weight])).log_probs())
        assert p[2] - p[1] == pytest.approx(p[1] - p[0], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("eos", [False, True])
def test_shared_tables_depend_on_the_last_tokens_alone(context: int, eos: bool) -> None:
    space = SequenceSpace(vocab_size=3, max_length=4, eos=eos)
    rows = [tuple(p for p in prefix if p >= 0) for prefix in space.prefixes]
    shared = [prefix for prefix in rows if len(prefix) <= context]
    logits = np.random.default_rng(0).normal(size=(2, len(shared), 3))
    policy = Autoregressive(logits, space, context)
    by_hand = []
    for tokens in map(space.decode, range(space.size)):
        total = np.zeros(2)
        for place, token in enumerate(tokens):
            row = shared.index(tokens[max(place - context, 0) : place])
            total += log_softmax(logits[:, row], axis=-1)[:, token]
        by_hand.append(total)
    np.testing.assert_allclose(policy.log_probs(), np.stack(by_hand, axis=-1), rtol=1e-12, atol=1e-12)
    last = space.decode(space.size - 1)
    np.testing.assert_allclose(policy.log_prob(last), by_hand[-1], rtol=1e-12)


def test_a_context_of_all_tokens_is_a_table_of_all_prefixes() -> None:
    logits = table(SPACE)
    whole = Autoregressive(logits, SPACE)
    for context in (SPACE.max_length - 1, SPACE.max_length, 99):
        assert (Autoregressive(logits, SPACE, context).log_probs() == whole.log_probs()).all()


def test_contexts_that_are_refused() -> None:
    for context in (-1, 1.5, True):
        with pytest.raises(ValueError, match="`context`"):
            Autoregressive(table(SPACE), SPACE, context)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must end in \(rows, vocab_size\) = \(1, "):
        Autoregressive(table(SPACE), SPACE, 0)
